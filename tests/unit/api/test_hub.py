"""The routes of the model hub: search, a durable job that downloads, and what is installed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from atelier.catalogue.installed import read_installed
from atelier.catalogue.storage import Storage
from atelier.core.jobs import Progress, Transfer
from atelier.hub.hub import Hub
from atelier.stores.blobs import BlobStore
from tests.hub import COMMIT, hub
from tests.hub import Hub as ModelHub
from tests.unit.api.job_server import JobServer

_WEIGHTS = Path(__file__).parents[3] / "zoo/weights"
_WAIT_S = 30.0
_NEON = {"repository": "me/neon", "accept_licence": "apache-2.0"}


@pytest.fixture
def model_hub(tmp_path: Path) -> Iterator[ModelHub]:
    root = tmp_path / "published"
    shutil.copytree(_WEIGHTS / "tiny-sdxl", root / "me/tiny-sdxl")
    (root / "me/neon").mkdir()
    shutil.copy(_WEIGHTS / "tiny-neon/tiny-neon.safetensors", root / "me/neon")
    with hub(root) as running:
        licence = {"license": "apache-2.0"}
        running.cards = {
            "me/tiny-sdxl": {
                "tags": ["diffusers:StableDiffusionXLPipeline"],
                "cardData": licence,
                "downloads": 2,
                "likes": 1,
            },
            "me/neon": {
                "tags": ["lora", "base_model:me/tiny-sdxl", "base_model:adapter:me/tiny-sdxl"],
                "cardData": licence,
                "downloads": 1,
            },
        }
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(models_dir=tmp_path / "models")


@pytest.fixture
def app(server: JobServer, blobs: BlobStore, storage: Storage, model_hub: ModelHub) -> ASGIApp:
    server.hub = Hub(storage, storage.loras_dir, endpoint=model_hub.address)
    return server.app(blobs)


async def _ended(http: httpx2.AsyncClient, job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a job when it has ended."""
    async with asyncio.timeout(_WAIT_S):
        events = (await http.get(job["events_url"])).text.strip().split("\n\n")
    ended: dict[str, Any] = json.loads(events[-1].partition("data: ")[2])
    return ended


async def _arriving(server: JobServer, job: Mapping[str, Any]) -> AsyncIterator[tuple[Progress, Transfer]]:
    """Yield the progress of a download in which bytes have arrived."""
    async with asyncio.timeout(_WAIT_S), aclosing(server.service.watch(job["id"])) as news:
        async for one in news:
            if isinstance(one, Progress) and one.transfer is not None and one.transfer.bytes_per_s:
                yield one, one.transfer


async def test_a_search_returns_what_a_client_chooses_by(http: httpx2.AsyncClient, model_hub: ModelHub) -> None:
    answer = await http.get("/v1/hub/search", params={"q": "neon", "kind": "lora", "base": "me/tiny-sdxl"})
    size = (model_hub.root / "me/neon/tiny-neon.safetensors").stat().st_size
    assert answer.json() == {
        "object": "list",
        "data": [
            {
                "name": "me/neon",
                "kind": "lora",
                "base_model": "me/tiny-sdxl",
                "licence": "apache-2.0",
                "licence_link": f"{model_hub.address}/me/neon",
                "revision": COMMIT,
                "downloads": 1,
                "likes": 0,
                "is_gated": False,
                "has_safetensors": True,
                "is_installed": False,
                "can_be_installed": True,
                "reason": None,
                "num_bytes": size,
                "files": [{"name": "tiny-neon.safetensors", "num_bytes": size}],
            }
        ],
    }


async def test_a_search_has_a_limit(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/v1/hub/search", params={"limit": 1})
    assert [one["name"] for one in answer.json()["data"]] == ["me/tiny-sdxl"]


@pytest.mark.parametrize("query", [{"kind": "vae"}, {"limit": 0}, {"limit": 51}, {"base": "../x"}, {"q": "x" * 201}])
async def test_a_wrong_query_is_refused(http: httpx2.AsyncClient, query: Mapping[str, str | int]) -> None:
    answer = await http.get("/v1/hub/search", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


async def test_a_download_is_a_job_whose_bytes_are_watched(
    http: httpx2.AsyncClient, server: JobServer, storage: Storage
) -> None:
    fields = {"repository": "me/tiny-sdxl", "accept_licence": "apache-2.0"}
    handed_in = await http.post("/v1/hub/download", json=fields)
    assert handed_in.status_code == 202
    job = handed_in.json()
    assert (job["operation"], job["state"]) == ("download", "queued")
    assert handed_in.headers["location"] == job["status_url"]
    async with server.working():
        ended = await _ended(http, job)
    assert ended["state"] == "succeeded"
    installed = ended["result"]["installed"]
    assert (installed["id"], installed["kind"], installed["revision"]) == ("me/tiny-sdxl", "model", COMMIT)
    progress = ended["progress"]
    transfer = progress["transfer"]
    assert transfer["done_bytes"] == transfer["total_bytes"] == installed["num_bytes"]
    assert transfer["bytes_per_s"] > 0
    assert (progress["eta_s"], progress["step"]) == (0, progress["total"])
    [model] = read_installed(storage.installed_dir, storage)
    assert model.id == "me/tiny-sdxl"
    assert (await http.get("/v1/hub/installed")).json() == {"object": "list", "data": [installed]}


async def test_a_download_in_progress_shows_its_bytes(
    http: httpx2.AsyncClient, server: JobServer, model_hub: ModelHub
) -> None:
    model_hub.faults.hold_after = 65_536
    size = (model_hub.root / "me/neon/tiny-neon.safetensors").stat().st_size
    job = (await http.post("/v1/hub/download", json=_NEON)).json()
    async with server.working():
        async for progress, transfer in _arriving(server, job):
            if not model_hub.faults.released.is_set():
                shown = (await http.get(job["status_url"])).json()
                assert 0 < transfer.done_bytes < transfer.total_bytes == size
                assert shown["progress"]["transfer"]["total_bytes"] == size
                assert shown["eta_s"] > 0
                assert progress.eta_s == (size - transfer.done_bytes) / (transfer.bytes_per_s or 0)
            model_hub.faults.released.set()
    assert model_hub.sent_bytes["tiny-neon.safetensors"] == size


async def test_a_cancelled_download_stops_and_installs_nothing(
    http: httpx2.AsyncClient, server: JobServer, model_hub: ModelHub
) -> None:
    model_hub.faults.pause_s = 0.1
    fields = {"repository": "me/tiny-sdxl", "accept_licence": "apache-2.0"}
    job = (await http.post("/v1/hub/download", json=fields)).json()
    async with server.working():
        async for _ in _arriving(server, job):
            await http.delete(job["status_url"])
    assert (await http.get(job["status_url"])).json()["state"] == "cancelled"
    assert (await http.get("/v1/hub/installed")).json()["data"] == []


async def test_a_licence_that_is_not_accepted_is_refused_and_no_job_is_made(
    http: httpx2.AsyncClient, model_hub: ModelHub
) -> None:
    answer = await http.post("/v1/hub/download", json={"repository": "me/neon"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (403, "licence_not_accepted", "accept_licence")
    assert "'apache-2.0'" in error["message"]
    assert f"{model_hub.address}/me/neon" in error["message"]
    assert (await http.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"repository": "http://example.org/x"}, "repository"),
        ({"repository": "me/neon", "file": "../x.safetensors"}, "file"),
        ({"repository": "me/neon", "url": "http://example.org"}, "url"),
        ({}, "repository"),
    ],
)
async def test_paths_and_urls_are_refused(http: httpx2.AsyncClient, fields: object, param: str) -> None:
    answer = await http.post("/v1/hub/download", json=fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_the_same_key_hands_in_one_download(http: httpx2.AsyncClient) -> None:
    headers = {"idempotency-key": "k"}
    first, second = [await http.post("/v1/hub/download", json=_NEON, headers=headers) for _ in range(2)]
    assert first.json()["id"] == second.json()["id"]


async def test_what_was_downloaded_is_removed_by_its_id(
    http: httpx2.AsyncClient, server: JobServer, storage: Storage
) -> None:
    for repository in ("me/tiny-sdxl", "me/neon"):
        fields = {"repository": repository, "accept_licence": "apache-2.0"}
        job = (await http.post("/v1/hub/download", json=fields)).json()
        async with server.working():
            assert (await _ended(http, job))["state"] == "succeeded"
    answer = await http.delete("/v1/hub/installed/me/tiny-sdxl")
    assert answer.json() == {"id": "me/tiny-sdxl", "object": "installed", "deleted": True}
    assert [one["id"] for one in (await http.get("/v1/hub/installed")).json()["data"]] == ["me--neon"]
    assert read_installed(storage.installed_dir) == ()
    again = await http.delete("/v1/hub/installed/me/tiny-sdxl")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")


async def test_a_hub_that_is_down_is_an_error_of_its_own(http: httpx2.AsyncClient, model_hub: ModelHub) -> None:
    model_hub.shutdown()
    model_hub.server_close()
    answer = await http.get("/v1/hub/search")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "hub_unavailable")
    assert answer.headers["retry-after"] == "5"


async def test_offline_mode_is_an_error_that_is_not_tried_again(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    answer = await http.get("/v1/hub/search")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub_offline")
    assert answer.headers["x-should-retry"] == "false"
    assert (await http.get("/v1/hub/installed")).status_code == 200


async def test_a_download_cannot_be_handed_in_as_another_job(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/jobs", json={"operation": "download", "input": _NEON})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "operation")
