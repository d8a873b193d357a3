"""Chaos among durable jobs: the Worker, a Denoiser, the Router and Postgres are killed while 60 jobs run.

`python -m benchmarks.job_chaos` starts a graph with its jobs in Postgres, makes the images of every kind of request
directly, hands in five jobs of each kind, and kills with SIGKILL one after the other. Postgres is started again. In
the end each job must have succeeded once, with the right images: those of `exact` requests to the byte.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.graph import NO_CACHE, running_app
from benchmarks.mixed_requests import Answers, Request, is_right, requests
from benchmarks.results import record
from graph import build_app
from tests.integration.replicas import kill, until_replaced
from tests.postgres import Postgres, find_programs, postgres

_NUM_OF_EACH, _NUM_STEPS = 5, 60
_KILLED = ("Worker", "Denoiser", "Router")
#: Seconds of work before each loss, and until all jobs must have ended.
_BETWEEN_S, _WAIT_S = 3, 600
_OPERATIONS = {
    "/v1/images/generations": "generate",
    "/v1/images/upscale": "upscale",
    "/v1/images/annotate": "annotate",
}
#: Fields that a job does not take.
_OF_ANSWERS = ("stream", "progress", "deadline_s")


def main() -> None:
    programs = find_programs()
    if programs is None:
        raise FileNotFoundError("PostgreSQL's initdb is not installed")
    with tempfile.TemporaryDirectory() as folder, postgres(programs) as server:
        os.environ["ATELIER_DATABASE_URL"] = server.new_database("atelier")
        os.environ["ATELIER_BLOBS_URL"] = Path(folder, "images").as_uri()
        app = build_app({"denoiser": {"num_threads": 2}}, user_configs=NO_CACHE)
        with running_app(app) as address:
            record("job_chaos", asyncio.run(_measured(address, server)))


async def _measured(address: str, server: Postgres) -> dict[str, float | int]:
    async with aiohttp.ClientSession(address) as client:
        answers, kinds = Answers(client), [_as_job(one) for one in requests()]
        expected = [await answers.files(one) for one in kinds]
        start_s = time.monotonic()
        numbered = list(enumerate(kinds)) * _NUM_OF_EACH
        jobs = [(await _handed_in(client, one), index) for index, one in numbered]
        lost_s = await _losses(server)
        ended = [await _ended(client, job_id) for job_id, _ in jobs]
        took_s = time.monotonic() - start_s
        outcomes = Counter[str]()
        for (job_id, index), job in zip(jobs, ended, strict=True):
            outcomes[await _judged(client, job_id, job, kinds[index], expected[index])] += 1
    attempts = Counter(job["attempts"] for job in ended)
    numbers: dict[str, float | int] = {"jobs": len(jobs), **{f"{name}": count for name, count in outcomes.items()}}
    numbers |= {f"replaced after a loss: {name}, s": round(seconds, 1) for name, seconds in lost_s.items()}
    numbers |= {f"jobs with {number} attempts": count for number, count in sorted(attempts.items())}
    return {**numbers, "all ended after, s": round(took_s, 1)}


async def _losses(server: Postgres) -> dict[str, float]:
    """Kill one after the other. Returns the seconds until each is there again."""
    lost_s = {}
    for name in _KILLED:
        await asyncio.sleep(_BETWEEN_S)
        lost_s[name] = await until_replaced(kill(name), name)
    await asyncio.sleep(_BETWEEN_S)
    start_s = time.monotonic()
    server.kill()
    await asyncio.sleep(_BETWEEN_S)
    await asyncio.to_thread(server.start)
    return {**lost_s, "Postgres": time.monotonic() - start_s}


def _as_job(request: Request) -> Request:
    """Return a request with more steps, without the fields that are about its answer."""
    body = {name: value for name, value in request.body.items() if name not in _OF_ANSWERS}
    if "num_inference_steps" in body:
        body["num_inference_steps"] = _NUM_STEPS
    return Request(request.path, body)


async def _handed_in(client: aiohttp.ClientSession, request: Request) -> str:
    body = {"operation": _OPERATIONS[request.path], "input": request.body}
    async with client.post("/v1/jobs", json=body) as answer:
        job_id: str = (await answer.json())["id"]
        return job_id


async def _ended(client: aiohttp.ClientSession, job_id: str) -> dict[str, Any]:
    """Ask until a job has ended; meanwhile there may be no Router, or no database."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            try:
                async with client.get(f"/v1/jobs/{job_id}") as answer:
                    job: dict[str, Any] = await answer.json()
                    if answer.status == 200 and job["state"] not in ("queued", "running"):
                        return job
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)


async def _judged(
    client: aiohttp.ClientSession, job_id: str, job: Mapping[str, Any], request: Request, expected: list[bytes]
) -> str:
    if job["state"] != "succeeded":
        return f"{job['state']}: {job['error']['code']}" if "error" in job else str(job["state"])
    async with client.get(f"/v1/jobs/{job_id}/events") as answer:
        events = (await answer.text()).split("\n\n")
    if sum("event: state" in event and '"succeeded"' in event for event in events) != 1:
        return "ended more than once"
    files = []
    for one in job["result"]["data"]:
        async with client.get(one["url"]) as answer:
            files.append(await answer.read())
    return "succeeded once, right images" if is_right(request, files, expected) else "wrong image"


if __name__ == "__main__":
    main()
