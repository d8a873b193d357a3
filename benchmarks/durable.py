"""What durability costs over HTTP: jobs against direct requests, a cached answer, and many watchers of one job.

`python -m benchmarks.durable` starts a graph and lets 16 clients make images in turn by direct requests, as jobs that
they wait for, as jobs whose events they follow, and by direct requests while 200 WebSockets watch one long job. The
client of a job hands it in with `Prefer: wait`, or follows its events to the last, and reads its file; a direct one
reads its image behind a URL, too. Requests have no seed, so that none is answered from the cache.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.graph import PORT, running_app
from benchmarks.results import record
from graph import build_app

_NUM_CLIENTS, _NUM_IMAGES, _NUM_ROUNDS = 16, 96, 5
_NUM_WATCHERS, _NUM_HITS = 200, 300
_ASKED = {"prompt": "a red circle, white background", "num_inference_steps": 20}
#: A job that goes on for as long as a round takes, behind all other work.
_LONG = {**_ASKED, "num_inference_steps": 150, "size": "256x256", "n": 10, "priority": "batch"}

#: Makes one image and reads its file.
Make = Callable[[httpx2.AsyncClient], Awaitable[None]]


def main() -> None:
    limits = {"Router": {"max_pixel_steps": 10**9}}
    with running_app(build_app({"denoiser": {"num_threads": 2}}, user_configs=limits)) as address:
        record("durable", asyncio.run(_measured(address)))


async def _measured(address: str) -> dict[str, float | int]:
    async with httpx2.AsyncClient(base_url=address, timeout=600) as http:
        for make in (_direct, _as_job, _followed):
            await _rate(http, make)
        durable, followed, watched = [], [], []
        for _ in range(_NUM_ROUNDS):
            direct = await _rate(http, _direct)
            durable.append(direct / await _rate(http, _as_job))
            followed.append(direct / await _rate(http, _followed))
            async with _long_job(http) as job_id:
                alone = await _rate(http, _direct)
                async with _watchers(job_id):
                    watched.append(await _rate(http, _direct) / alone)
        return {
            "clients": _NUM_CLIENTS,
            "time as jobs / directly": round(statistics.median(durable), 3),
            "time as jobs / directly, lowest": round(min(durable), 3),
            "time as jobs / directly, highest": round(max(durable), 3),
            "time as jobs whose events are followed / directly": round(statistics.median(followed), 3),
            "watchers": _NUM_WATCHERS,
            "throughput with watchers / without": round(statistics.median(watched), 3),
            "cached answer, median ms": round(1000 * await _hit_s(http), 1),
        }


async def _rate(http: httpx2.AsyncClient, make: Make) -> float:
    """Return how many images a second the clients make."""
    left = iter(range(_NUM_IMAGES))

    async def work() -> None:
        for _ in left:
            await make(http)

    start_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(_NUM_CLIENTS)))
    return _NUM_IMAGES / (time.perf_counter() - start_s)


async def _direct(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/images/generations", json={**_ASKED, "response_format": "url"})
    await _read(http, answer.raise_for_status().json()["data"][0]["url"])


async def _as_job(http: httpx2.AsyncClient) -> None:
    body = {"operation": "generate", "input": _ASKED}
    answer = await http.post("/v1/jobs", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    await _read(http, answer.json()["result"]["data"][0]["url"])


async def _followed(http: httpx2.AsyncClient) -> None:
    job = await _handed_in(http, _ASKED)
    events = (await http.get(f"/v1/jobs/{job}/events")).raise_for_status().text
    name, data = events.strip().split("\n\n")[-1].split("\n")
    assert name == "event: job", events
    await _read(http, json.loads(data.removeprefix("data: "))["result"]["data"][0]["url"])


async def _read(http: httpx2.AsyncClient, url: str) -> None:
    file = (await http.get(url)).raise_for_status().content
    assert file.startswith(b"\x89PNG"), "no image"


async def _handed_in(http: httpx2.AsyncClient, asked: dict[str, object]) -> str:
    body = {"operation": "generate", "input": asked}
    job_id: str = (await http.post("/v1/jobs", json=body)).raise_for_status().json()["id"]
    return job_id


@asynccontextmanager
async def _long_job(http: httpx2.AsyncClient) -> AsyncIterator[str]:
    """Run a job that is cancelled at the end."""
    job_id = await _handed_in(http, _LONG)
    while (await http.get(f"/v1/jobs/{job_id}")).json()["state"] == "queued":
        await asyncio.sleep(0.1)
    yield job_id
    await http.delete(f"/v1/jobs/{job_id}")
    await http.get(f"/v1/jobs/{job_id}/events")


@asynccontextmanager
async def _watchers(job_id: str) -> AsyncIterator[None]:
    """Watch a job over many WebSockets, each of which has been told something when the body begins."""
    told = [asyncio.Event() for _ in range(_NUM_WATCHERS)]

    async def watch(mine: asyncio.Event) -> None:
        with suppress(ConnectionClosed):
            async with connect(f"ws://127.0.0.1:{PORT}/ws/jobs/{job_id}", proxy=None) as watching:
                async for _ in watching:
                    mine.set()

    tasks = [asyncio.create_task(watch(one)) for one in told]
    await asyncio.gather(*(one.wait() for one in told))
    yield
    assert not any(task.done() for task in tasks), "a watcher was closed"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _hit_s(http: httpx2.AsyncClient) -> float:
    """Return the median time of a request that is answered from the cache."""
    body = {**_ASKED, "seed": 5}
    (await http.post("/v1/images/generations", json=body)).raise_for_status()
    times = []
    for _ in range(_NUM_HITS):
        start_s = time.perf_counter()
        answer = (await http.post("/v1/images/generations", json=body)).json()
        times.append(time.perf_counter() - start_s)
        assert answer["cached"], "not from the cache"
    return statistics.median(times)


if __name__ == "__main__":
    main()
