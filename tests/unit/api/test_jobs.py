"""Durable jobs over HTTP, done by a worker in this process."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise, pixels_of
from tests.stages import RecordingStages
from tests.unit.api.conftest import MAX_BODY_BYTES
from tests.unit.api.job_server import MAX_QUEUED, JobServer

_JOBS = "/v1/jobs"
_INPUT = {"prompt": "x", "size": "64x32", "num_inference_steps": 4}
_GENERATE = {"operation": "generate", "input": _INPUT}
_IMAGE = base64.b64encode(encoded(noise(64, 32))).decode()
_WAIT_S = 30.0


@pytest.fixture
def app(server: JobServer, blobs: BlobStore) -> ASGIApp:
    return server.app(blobs)


async def _ended(http: httpx2.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until a job has ended, as a client does that watches it."""
    async with asyncio.timeout(_WAIT_S):
        events = (await http.get(job["events_url"])).text.strip().split("\n\n")
    name, data = events[-1].split("\n")
    assert name == "event: job"
    ended: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return ended


async def _handed_in(http: httpx2.AsyncClient, body: object, **headers: str) -> dict[str, Any]:
    answer = await http.post(_JOBS, json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == job["status_url"]
    return job


async def test_a_job_makes_the_image_of_a_direct_request(http: httpx2.AsyncClient, server: JobServer) -> None:
    asked = {**_INPUT, "seed": 3, "reproducibility": "exact", "n": 2}
    job = await _handed_in(http, {**_GENERATE, "input": asked})
    assert (job["object"], job["state"], job["attempts"], job["position"]) == ("job", "queued", 0, 0)
    async with server.working():
        ended = await _ended(http, job)
    assert (ended["state"], ended["attempts"], ended["progress"]["step"]) == ("succeeded", 1, 4)
    assert ended["started_at"] >= ended["created_at"]
    assert ended["finished_at"] >= ended["started_at"]
    direct = (await http.post("/v1/images/generations", json=asked)).json()
    for made, expected in zip(ended["result"]["data"], direct["data"], strict=True):
        file = await http.get(made["url"])
        assert file.headers["content-type"] == "image/png"
        assert file.content == base64.b64decode(expected["b64_json"])
        assert (made["seed"], made["parameters"]) == (expected["seed"], expected["parameters"])
    assert ended["result"]["exactness_key"] == direct["exactness_key"]
    assert (await http.get(job["status_url"])).json() == ended


async def test_every_operation_has_the_fields_of_its_route(http: httpx2.AsyncClient, server: JobServer) -> None:
    quick = {"num_inference_steps": 4, "strength": 0.5}
    bodies = [
        {"operation": "edit", "input": {**quick, "prompt": "x", "image": _IMAGE}},
        {"operation": "variation", "input": {**quick, "image": _IMAGE}},
        {"operation": "upscale", "input": {"image": _IMAGE, "scale": 2}},
        {"operation": "annotate", "input": {"image": _IMAGE, "kind": "canny"}},
        {
            "operation": "generate",
            "input": {**_INPUT, "controls": [{"kind": "canny", "image": _IMAGE, "annotate": True}]},
        },
    ]
    jobs = [await _handed_in(http, body) for body in bodies]
    async with server.working():
        ended = [await _ended(http, job) for job in jobs]
    assert [job["state"] for job in ended] == ["succeeded"] * len(bodies)
    shapes = [pixels_of((await http.get(job["result"]["data"][0]["url"])).content).shape for job in ended]
    assert shapes == [(32, 64, 3), (32, 64, 3), (64, 128, 3), (32, 64, 3), (32, 64, 3)]
    [drawn] = ended[-1]["result"]["control_maps"]
    assert drawn["kind"] == "canny"
    assert (await http.get(drawn["url"])).content == (await http.get(ended[3]["result"]["data"][0]["url"])).content


async def test_a_job_without_a_seed_makes_the_same_image_at_every_attempt(
    http: httpx2.AsyncClient, server: JobServer, stages: RecordingStages
) -> None:
    job = await _handed_in(http, _GENERATE)
    stages.may_denoise.clear()
    async with server.working():
        await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    stages.may_denoise.set()
    async with server.working():
        assert (await _ended(http, job))["attempts"] == 2
    first, second = stages.requests
    assert first.pass_ == second.pass_


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"operation": "paint", "input": {}}, 400, "invalid_value", "operation"),
        ({"operation": "generate"}, 400, "invalid_value", "input"),
        ({"operation": "generate", "input": {}}, 400, "invalid_value", "input.prompt"),
        ({**_GENERATE, "rank": 101}, 400, "invalid_value", "rank"),
        ({**_GENERATE, "delay_s": -1}, 400, "invalid_value", "delay_s"),
        ({**_GENERATE, "prompt": "x"}, 400, "unknown_parameter", "prompt"),
        ({"operation": "generate", "input": {**_INPUT, "size": "7x7"}}, 400, "invalid_value", "input.size"),
        ({"operation": "generate", "input": {**_INPUT, "stream": True}}, 400, "invalid_value", "input.stream"),
        ({"operation": "generate", "input": {**_INPUT, "model": "none"}}, 404, "model_not_found", "input.model"),
        ({"operation": "generate", "input": {**_INPUT, "colour": "red"}}, 400, "unknown_parameter", "input.colour"),
        ({"operation": "edit", "input": {"prompt": "x", "image": "bm9uZQ=="}}, 400, "invalid_value", "input.image"),
        (
            {"operation": "edit", "input": {"prompt": "x", "images": ["bm9uZQ=="]}},
            400,
            "invalid_value",
            "input.images",
        ),
        ({"operation": "variation", "input": {"image": "bm9uZQ=="}}, 400, "invalid_value", "input.image"),
        ({"operation": "upscale", "input": {"image": "bm9uZQ=="}}, 400, "invalid_value", "input.image"),
        ({"operation": "annotate", "input": {"kind": "canny"}}, 400, "invalid_value", "input.image"),
    ],
)
async def test_a_wrong_job_is_refused_before_it_is_queued(
    http: httpx2.AsyncClient, body: object, status: int, code: str, param: str
) -> None:
    answer = await http.post(_JOBS, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert (await http.get(_JOBS)).json() == {"object": "list", "data": [], "has_more": False}


async def test_a_key_sent_again_returns_the_first_job(http: httpx2.AsyncClient) -> None:
    first = await _handed_in(http, _GENERATE, **{"idempotency-key": "order-7"})
    again = await _handed_in(http, _GENERATE, **{"idempotency-key": "order-7"})
    assert again["id"] == first["id"]
    other = await http.post(_JOBS, json={**_GENERATE, "rank": 1}, headers={"idempotency-key": "order-7"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    long = await http.post(_JOBS, json=_GENERATE, headers={"idempotency-key": "x" * 191})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_more_jobs_than_may_wait_are_refused(http: httpx2.AsyncClient, server: JobServer) -> None:
    jobs = [await _handed_in(http, _GENERATE, **{"idempotency-key": str(index)}) for index in range(MAX_QUEUED)]
    assert (await _handed_in(http, _GENERATE, **{"idempotency-key": "0"}))["id"] == jobs[0]["id"]
    full = await http.post(_JOBS, json=_GENERATE)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert full.headers["retry-after"] == "60"
    async with server.working():
        for job in jobs:
            await _ended(http, job)
    await _handed_in(http, _GENERATE)


async def test_jobs_are_listed_in_pages(http: httpx2.AsyncClient) -> None:
    ids = [(await _handed_in(http, _GENERATE))["id"] for _ in range(5)]
    await http.delete(f"{_JOBS}/{ids[0]}")
    page = (await http.get(_JOBS, params={"limit": 3})).json()
    rest = (await http.get(_JOBS, params={"limit": 3, "after": page["data"][-1]["id"]})).json()
    assert [job["id"] for job in page["data"] + rest["data"]] == ids[::-1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    queued = (await http.get(_JOBS, params={"state": "queued"})).json()["data"]
    assert [job["id"] for job in queued] == ids[:0:-1]
    assert (await http.get(_JOBS, params={"operation": "upscale"})).json()["data"] == []
    assert (await http.get(_JOBS, params={"limit": 101})).status_code == 400


async def test_a_queued_job_tells_its_place_and_when_it_may_end(http: httpx2.AsyncClient, server: JobServer) -> None:
    first = await _handed_in(http, _GENERATE)
    assert "eta_s" not in first, "nothing is known yet"
    async with server.working():
        await _ended(http, first)
    batch = await _handed_in(http, {**_GENERATE, "input": {**_INPUT, "priority": "batch"}})
    alone_s = (await http.get(batch["status_url"])).json()["eta_s"]
    await _handed_in(http, _GENERATE)
    behind = (await http.get(batch["status_url"])).json()
    assert (batch["position"], behind["position"]) == (0, 1)
    assert behind["eta_s"] == pytest.approx(2 * alone_s)


async def test_a_running_job_is_cancelled_within_a_step(
    http: httpx2.AsyncClient, server: JobServer, stages: RecordingStages
) -> None:
    stages.may_denoise.clear()
    job = await _handed_in(http, _GENERATE)
    async with server.working():
        await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
        assert (await http.delete(job["status_url"])).json()["state"] == "running"
        assert (await _ended(http, job))["state"] == "cancelled"
    assert stages.ended.is_set()
    assert "decode_latents" not in stages.names


async def test_a_failed_job_has_the_error_of_a_direct_request(http: httpx2.AsyncClient, server: JobServer) -> None:
    job = await _handed_in(http, {**_GENERATE, "input": {**_INPUT, "deadline_s": 0.001}})
    async with server.working():
        ended = await _ended(http, job)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "deadline_exceeded")


async def test_a_client_that_comes_back_gets_the_states_that_it_has_missed(
    http: httpx2.AsyncClient, server: JobServer
) -> None:
    job = await _handed_in(http, _GENERATE)
    async with server.working():
        await _ended(http, job)

    async def states(**headers: str) -> list[str]:
        text = (await http.get(job["events_url"], headers=headers)).text
        events = [event.split("\n") for event in text.strip().split("\n\n")]
        return [json.loads(lines[2].removeprefix("data: "))["state"] for lines in events if "event: state" in lines]

    assert await states() == ["queued", "running", "succeeded"]
    assert await states(**{"last-event-id": "1"}) == ["running", "succeeded"]
    assert await states(**{"last-event-id": "3"}) == []


async def test_what_is_not_there_is_said_so(http: httpx2.AsyncClient, server: JobServer) -> None:
    job = await _handed_in(http, _GENERATE)
    async with server.working():
        ended = await _ended(http, job)
    other = await _handed_in(http, _GENERATE)
    name = ended["result"]["data"][0]["url"].rpartition("/")[2]
    paths = [f"{_JOBS}/job_0", f"{_JOBS}/job_0/events", f"{_JOBS}/{other['id']}/files/{name}"]
    for path in paths:
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    assert (await http.delete(f"{_JOBS}/job_0")).status_code == 404


async def test_an_application_without_jobs_says_so(pipeline: Pipeline, blobs: BlobStore) -> None:
    transport = httpx2.ASGITransport(build_app(pipeline, blobs, max_body_bytes=MAX_BODY_BYTES))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(_JOBS, json=_GENERATE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_supported")


async def test_all_data_of_a_caller_is_deleted(
    http: httpx2.AsyncClient, server: JobServer, stages: RecordingStages, tmp_path: Path
) -> None:
    edit = {"operation": "edit", "input": {"prompt": "x", "image": _IMAGE, "num_inference_steps": 4}}
    done = await _handed_in(http, edit)
    async with server.working():
        ended = await _ended(http, done)
        for event in (stages.may_denoise, stages.denoising, stages.ended):
            event.clear()
        running = await _handed_in(http, _GENERATE)
        await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
        assert len(list((tmp_path / "jobs").glob("*.png"))) == 2
        assert (await http.delete("/v1/data")).json() == {"jobs": 2, "files": 2}
        await asyncio.wait_for(stages.ended.wait(), _WAIT_S)
    assert list((tmp_path / "jobs").glob("*.png")) == []
    assert (await http.get("/v1/jobs")).json()["data"] == []
    for url in (done["status_url"], running["status_url"], ended["result"]["data"][0]["url"]):
        assert (await http.get(url)).status_code == 404
