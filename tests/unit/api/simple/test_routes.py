"""The simple routes, as clients of other servers call them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.caches import cache_in
from tests.pictures import as_base64, decoded, noise
from tests.stages import RecordingStages
from tests.unit.api.job_server import JobServer

_QUICK = {"prompt": "x", "steps": 10, "width": 64, "height": 32}
_WAIT_S = 30.0


@pytest.fixture
async def pipeline(stages: RecordingStages, small_catalogue: Catalogue, tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        yield Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=2_000_000), cache=cache)


@pytest.fixture
def app(server: JobServer, blobs: BlobStore) -> ASGIApp:
    return server.app(blobs)


async def _generated(http: httpx2.AsyncClient, **fields: object) -> dict[str, Any]:
    answer = await http.post("/generate", json=fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def _ended(http: httpx2.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(_WAIT_S):
        await http.get(f"/v1/jobs/{job['job_id']}/events")
    status: dict[str, Any] = (await http.get(f"/status/{job['job_id']}")).json()
    return status


async def test_a_prompt_is_enough(http: httpx2.AsyncClient, server: JobServer) -> None:
    job = await _generated(http, prompt="x")
    assert job["status"] == "queued"
    waiting = (await http.get(job["status_url"])).json()
    assert (waiting["progress"], waiting["position"]) == (0.0, 0)
    async with server.working():
        ended = await _ended(http, job)
    assert (ended["status"], ended["progress"], ended["step"], ended["total_steps"]) == ("succeeded", 1.0, 4, 4)
    file = await http.get(ended["image_url"])
    parameters = json.loads(file.headers["x-generation-metadata"])["parameters"]
    assert (parameters["num_inference_steps"], parameters["guidance_scale"]) == (4, 5.0), "the small model's"
    assert (await http.get("/api/cache/stats")).json()["entries"] == 0, "nobody asks for a seed that was drawn"
    assert file.headers["content-disposition"].startswith(f'inline; filename="small-sdxl-{parameters["seed"]}-')
    assert decoded(file.content).format == "PNG"


async def test_every_field_takes_effect(http: httpx2.AsyncClient, server: JobServer) -> None:
    asked = {
        **_QUICK,
        "negative_prompt": "y",
        "model": "small-sdxl",
        "guidance_scale": 3,
        "seed": 5,
        "sampler": "ddim",
    }
    job = await _generated(http, **asked)
    async with server.working():
        ended = await _ended(http, job)
    file = await http.get(ended["image_url"])
    parameters = json.loads(file.headers["x-generation-metadata"])["parameters"]
    assert decoded(file.content).size == (64, 32)
    assert {name: parameters[name] for name in ("negative_prompt", "model", "seed", "sampler")} == {
        name: asked[name] for name in ("negative_prompt", "model", "seed", "sampler")
    }
    assert (parameters["num_inference_steps"], parameters["guidance_scale"]) == (10, 3.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steps": 9}, "steps"),
        ({"steps": 101}, "steps"),
        ({"guidance_scale": 0.9}, "guidance_scale"),
        ({"guidance_scale": 30.1}, "guidance_scale"),
        ({"model": "none"}, "model"),
        ({"loras": [{"model": "none"}]}, "loras"),
        ({"width": 64}, "height"),
        ({"width": 63, "height": 64}, "width"),
        ({"prompt": " "}, "prompt"),
        ({"colour": "red"}, "colour"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/generate-image"])
async def test_what_is_wrong_is_named(
    http: httpx2.AsyncClient, path: str, fields: dict[str, object], param: str
) -> None:
    answer = await http.post(path, json={"prompt": "x", **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"].startswith(param)
    for value in (fields.get("model"), *(lora["model"] for lora in fields.get("loras", []))):  # type: ignore[attr-defined]
        assert value is None or value in error["message"]


async def test_an_image_that_is_not_there_yet_is_a_conflict(http: httpx2.AsyncClient) -> None:
    job = await _generated(http, **_QUICK)
    early = await http.get(job["image_url"])
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_unfinished")
    await http.delete(f"/v1/jobs/{job['job_id']}")
    cancelled = await http.get(job["image_url"])
    assert cancelled.status_code == 404
    assert "cancelled" in cancelled.json()["error"]["message"]


async def test_a_failed_job_says_why(http: httpx2.AsyncClient, server: JobServer) -> None:
    body = {"operation": "generate", "input": {"prompt": "x", "size": "64x32", "deadline_s": 0.001}}
    job = {"job_id": (await http.post("/v1/jobs", json=body)).json()["id"]}
    async with server.working():
        ended = await _ended(http, job)
    assert (ended["status"], ended["progress"]) == ("failed", 0.0)
    assert "deadline" in ended["error"]
    assert ended["error"] in (await http.get(f"/image/{job['job_id']}")).json()["error"]["message"]


async def test_each_image_of_a_job_has_a_number(http: httpx2.AsyncClient, server: JobServer) -> None:
    body = {"operation": "generate", "input": {"prompt": "x", "size": "64x32", "n": 2, "seed": 3}}
    job = {"job_id": (await http.post("/v1/jobs", json=body)).json()["id"]}
    async with server.working():
        await _ended(http, job)
    files = [await http.get(f"/image/{job['job_id']}", params={"index": index}) for index in range(3)]
    seeds = [json.loads(one.headers["x-generation-metadata"])["parameters"]["seed"] for one in files[:2]]
    assert seeds == [3, 4]
    assert (files[2].status_code, files[2].json()["error"]["param"]) == (400, "index")


async def test_a_repeated_prompt_is_answered_from_the_cache(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    first, again = [(await http.post("/generate-image", json=_QUICK)).json() for _ in range(2)]
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["image"] == first["image"]
    assert stages.names.count("denoise") == 1
    image = decoded(first["image"].removeprefix("data:image/png;base64,"))
    assert (image.size, first["width"], first["height"], first["model"]) == ((64, 32), 64, 32, "small-sdxl")
    new = (await http.post("/generate-image", json={**_QUICK, "cache": "off"})).json()
    assert not new["cached"]
    assert new["seed"] != first["seed"]


async def test_the_cache_is_counted_and_cleared(http: httpx2.AsyncClient) -> None:
    for _ in range(3):
        await http.post("/generate-image", json=_QUICK)
    stats = (await http.get("/api/cache/stats")).json()
    assert (stats["hits"], stats["misses"], stats["entries"], stats["max_bytes"]) == (2, 1, 1, 10_000_000)
    assert stats["size_bytes"] > 1000
    assert (await http.post("/api/cache/clear", json={"max_age_days": 7})).json() == {"deleted": 0}
    assert (await http.post("/api/cache/clear", json={})).json() == {"deleted": 1}
    assert not (await http.post("/generate-image", json=_QUICK)).json()["cached"]
    wrong = await http.post("/api/cache/clear", json={"max_age_days": -1})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "max_age_days")


async def test_models_are_listed(http: httpx2.AsyncClient) -> None:
    listed = (await http.get("/models")).json()
    assert listed["default"] == "small-sdxl"
    assert listed["models"] == (await http.get("/")).json()["models"]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/variations"])
async def test_a_request_with_a_key_is_made_once(
    http: httpx2.AsyncClient, stages: RecordingStages, path: str
) -> None:
    image = {} if path.endswith("generations") else {"image": as_base64(noise(64, 32)), "strength": 0.5}
    body = {"prompt": "x", "size": "64x32", "num_inference_steps": 4, **image}
    first, again = [
        (await http.post(path, json=body, headers={"idempotency-key": "order-7"})).json() for _ in range(2)
    ]
    assert (first["cached"], again["cached"]) == (False, True)
    assert again["data"] == first["data"]
    assert stages.names.count("denoise") == 1
    another = (await http.post(path, json=body, headers={"idempotency-key": "order-8"})).json()
    assert another["data"][0]["seed"] != first["data"][0]["seed"]
    seeded = (await http.post(path, json={**body, "seed": 5}, headers={"idempotency-key": "order-9"})).json()
    assert seeded["data"][0]["seed"] == 5
    other = await http.post(path, json={**body, "n": 2}, headers={"idempotency-key": "order-7"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
