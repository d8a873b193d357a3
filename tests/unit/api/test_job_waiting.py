"""`Prefer: wait`: the answer to a job that is handed in comes when the job has ended."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from atelier.stores.blobs import BlobStore
from tests.pictures import decoded
from tests.unit.api.job_server import JobServer

_JOBS = "/v1/jobs"
_INPUT = {"prompt": "x", "size": "64x32", "num_inference_steps": 4}
_BODY = {"operation": "generate", "input": _INPUT}
_WAIT_S = 30.0


@pytest.fixture
def app(server: JobServer, blobs: BlobStore) -> ASGIApp:
    return server.app(blobs)


async def _listed(http: httpx2.AsyncClient) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = (await http.get(_JOBS)).json()["data"]
    return jobs


async def test_the_answer_is_the_job_with_its_result(http: httpx2.AsyncClient, server: JobServer) -> None:
    async with server.working(), asyncio.timeout(_WAIT_S):
        answer = await http.post(_JOBS, json=_BODY, headers={"Prefer": "wait"})
    job = answer.json()
    assert (answer.status_code, job["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == job["status_url"]
    assert job == (await http.get(job["status_url"])).json()
    assert decoded((await http.get(job["result"]["data"][0]["url"])).content).size == (64, 32)


async def test_a_job_that_fails_is_answered_with_its_error(http: httpx2.AsyncClient, server: JobServer) -> None:
    body = {**_BODY, "input": {**_INPUT, "deadline_s": 0.001}}
    async with server.working(), asyncio.timeout(_WAIT_S):
        answer = await http.post(_JOBS, json=body, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["state"]) == (200, "failed")
    assert "deadline" in answer.json()["error"]["message"]


async def test_a_job_that_takes_longer_is_answered_as_it_is_then(http: httpx2.AsyncClient, server: JobServer) -> None:
    answer = await http.post(_JOBS, json=_BODY, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.json()["state"], answer.json()["position"]) == (202, "queued", 0)
    assert answer.headers["preference-applied"] == "wait=1"
    async with server.working():
        events = (await http.get(answer.json()["events_url"])).text
    assert '"state": "succeeded"' in events


async def test_a_job_goes_on_when_the_client_that_waits_leaves(http: httpx2.AsyncClient, server: JobServer) -> None:
    waiting = asyncio.create_task(http.post(_JOBS, json=_BODY, headers={"Prefer": "wait"}))
    async with asyncio.timeout(_WAIT_S):
        while True:
            jobs = await _listed(http)
            if jobs:
                break
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        async with server.working():
            events = (await http.get(jobs[0]["events_url"])).text
    assert '"state": "succeeded"' in events


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        (["respond-async"], None),
        (["waiting=5, wait-more"], None),
        (["respond-async;x=1, Wait = 1; y"], "wait=1"),
        (['wait="1"'], "wait=1"),
        (["handling=lenient", "wait=1", "wait=9"], "wait=1"),
    ],
)
async def test_other_preferences_are_ignored(
    http: httpx2.AsyncClient, prefer: list[str], applied: str | None
) -> None:
    answer = await http.post(_JOBS, json=_BODY, headers=[("Prefer", value) for value in prefer])
    assert answer.status_code == 202
    assert answer.headers.get("preference-applied") == applied


@pytest.mark.parametrize("value", ["0", "61", "-1", "1.5", "long", "9" * 5000])
async def test_a_time_that_is_not_allowed_is_refused_before_the_job_is_taken(
    http: httpx2.AsyncClient, value: str
) -> None:
    answer = await http.post(_JOBS, json=_BODY, headers={"Prefer": f"wait={value}"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "Prefer")
    assert f"wait is 1 to 60 seconds; got '{value[:20]}'" in error["message"]
    assert await _listed(http) == []


async def test_a_batch_is_answered_at_once(http: httpx2.AsyncClient) -> None:
    answer = await http.post(_JOBS, json=[_BODY, _BODY], headers={"Prefer": "wait"})
    assert (answer.status_code, len(answer.json()["jobs"])) == (202, 2)
    assert "preference-applied" not in answer.headers
