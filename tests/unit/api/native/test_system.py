"""GPUs, deployments and the system over HTTP; where there are GPUs, a graph of Ray's would have told of them."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest

from atelier.api import host as host_module
from atelier.api.app import build_app
from atelier.api.host import Host
from atelier.core.jobs import NewJob
from atelier.core.status import Gpu, GraphStatus, Service, UsedGpu
from atelier.jobs.service import JobService
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from tests.stages import RecordingStages
from tests.unit.api.conftest import MAX_BODY_BYTES

_GPUS, _SERVICES, _SYSTEM = "/gpu/status", "/api/services/status", "/api/system/info"
_STAGES = {"TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler"}
_GPU = Gpu(
    uuid="GPU-a",
    name="NVIDIA H100",
    total_bytes=80_000,
    used_bytes=30_000,
    free_bytes=50_000,
    utilization_percent=97,
    temperature_c=61,
)
_TWO = GraphStatus(
    services=(
        Service(name="Denoiser", status="running", num_running=1, num_wanted=2, num_silent=1, message="Upscaling"),
        Service(name="Upscaler", status="scaled_to_zero", num_running=0, num_wanted=0),
    ),
    gpus=(
        UsedGpu(_GPU, "n1", ("Denoiser", "Upscaler")),
        UsedGpu(replace(_GPU, uuid="GPU-b").without_numbers(), "n2", ("Denoiser",)),
    ),
    models=("a", "b"),
    is_complete=True,
)


async def _get(http: httpx2.AsyncClient, path: str) -> Any:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_machine_without_gpus_says_so(http: httpx2.AsyncClient) -> None:
    assert await _get(http, _GPUS) == {"backend": "none", "gpus": []}
    assert (await _get(http, _SERVICES))["gpu"] == "none"
    assert (await _get(http, _SYSTEM))["vram"] == "none"


async def test_every_stage_is_a_service(http: httpx2.AsyncClient) -> None:
    report = await _get(http, _SERVICES)
    assert report["status"] == "ok"
    assert {one["name"] for one in report["services"]} == _STAGES
    for service in report["services"]:
        del service["name"]
        assert service == {"status": "running", "num_running": 1, "num_wanted": 1, "num_silent": 0, "message": None}


async def test_gpus_have_their_numbers_and_their_deployments(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    stages.given_status = _TWO
    report = await _get(http, _GPUS)
    assert report["backend"] == "cuda"
    known, unknown = report["gpus"]
    assert known == {
        "uuid": "GPU-a",
        "name": "NVIDIA H100",
        "node": "n1",
        "total_bytes": 80_000,
        "used_bytes": 30_000,
        "free_bytes": 50_000,
        "utilization_percent": 97,
        "temperature_c": 61,
        "deployments": ["Denoiser", "Upscaler"],
    }
    nothing = dict.fromkeys(("used_bytes", "free_bytes", "utilization_percent", "temperature_c"))
    assert unknown == known | nothing | {"uuid": "GPU-b", "node": "n2", "deployments": ["Denoiser"]}
    services = await _get(http, _SERVICES)
    assert services["gpu"] == report
    assert services["services"] == [
        {
            "name": "Denoiser",
            "status": "running",
            "num_running": 1,
            "num_wanted": 2,
            "num_silent": 1,
            "message": "Upscaling",
        },
        {
            "name": "Upscaler",
            "status": "scaled_to_zero",
            "num_running": 0,
            "num_wanted": 0,
            "num_silent": 0,
            "message": None,
        },
    ]


@pytest.mark.parametrize(("num_known", "used_bytes"), [(2, 60_000), (1, None)])
async def test_vram_is_that_of_all_gpus(
    http: httpx2.AsyncClient, stages: RecordingStages, num_known: int, used_bytes: int | None
) -> None:
    gpus = [_GPU] * num_known + [_GPU.without_numbers()] * (2 - num_known)
    stages.given_status = replace(_TWO, gpus=tuple(UsedGpu(gpu, "n1", ()) for gpu in gpus))
    system = await _get(http, _SYSTEM)
    assert system["vram"] == {"total_bytes": 160_000, "used_bytes": used_bytes}
    assert system["loaded_models"] == ["a", "b"]


@pytest.mark.parametrize("status", ["unhealthy", "starting"])
async def test_a_deployment_that_does_not_work_degrades_the_whole(
    http: httpx2.AsyncClient, stages: RecordingStages, status: Any
) -> None:
    broken = replace(_TWO.services[0], status=status)
    stages.given_status = replace(_TWO, services=(broken, _TWO.services[1]))
    assert (await _get(http, _SERVICES))["status"] == "degraded"


async def test_what_is_not_known_is_not_said_to_be_missing(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    stages.given_status = GraphStatus(services=(), gpus=(), models=(), is_complete=False)
    assert await _get(http, _GPUS) == {"backend": "unknown", "gpus": []}
    assert await _get(http, _SERVICES) == {"status": "degraded", "services": [], "gpu": "unknown"}
    assert (await _get(http, _SYSTEM))["vram"] == "unknown"


async def test_the_system_is_described_without_its_name(http: httpx2.AsyncClient) -> None:
    answer = await http.get(_SYSTEM)
    system = answer.json()
    assert (system["version"], system["python"]) == (version("atelier"), platform.python_version())
    assert (system["torch"], system["ray"]) == (version("torch"), version("ray"))
    assert system["loaded_models"] == ["small-sdxl"]
    assert system["jobs"] is None
    assert system["uptime_s"] >= 0
    assert socket.gethostname() not in answer.text


async def test_a_package_that_is_not_installed_has_no_version(
    http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_ray(package: str) -> str:
        if package == "ray":
            raise PackageNotFoundError
        return version(package)

    monkeypatch.setattr(host_module, "version", without_ray)
    assert (await _get(http, _SYSTEM))["ray"] is None


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_the_uptime_outlives_a_new_application_and_the_machine_is_read_seldom(
    pipeline: Pipeline, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = iter((SimpleNamespace(total=10, available=4), SimpleNamespace(total=10, available=3)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: next(memories))
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 12.5)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    clock = _Clock()
    host = Host(clock)
    used_bytes = []
    for clock.now in (101.0, 102.0, 104.0):
        async with _client(build_app(pipeline, blobs, max_body_bytes=MAX_BODY_BYTES, host=host)) as http:
            system = await _get(http, _SYSTEM)
        assert system["uptime_s"] == clock.now - 100.0
        assert system["cpu"] == {"num_cpus": 8, "utilization_percent": 12.5}
        assert system["memory"]["total_bytes"] == 10
        used_bytes.append(system["memory"]["used_bytes"])
    assert used_bytes == [6, 6, 7]


@asynccontextmanager
async def _client(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as http:
        yield http


@asynccontextmanager
async def _with_jobs(
    pipeline: Pipeline, blobs: BlobStore, folder: Path, url: str
) -> AsyncIterator[tuple[httpx2.AsyncClient, Database]]:
    """An application whose jobs are in the database at `url`."""
    database = Database(url)
    service = JobService(
        Jobs(database), Changes(database), BlobStore((folder / "files").as_uri(), ttl=timedelta(hours=1))
    )
    async with _client(build_app(pipeline, blobs, service, max_body_bytes=MAX_BODY_BYTES)) as http:
        yield http, database
    await database.close()


async def test_jobs_are_counted_by_state(pipeline: Pipeline, blobs: BlobStore, tmp_path: Path) -> None:
    async with _with_jobs(pipeline, blobs, tmp_path, f"sqlite:///{tmp_path / 'jobs.db'}") as (http, database):
        await database.migrate()
        jobs = Jobs(database)
        added = await jobs.add([NewJob(operation="generate", params={}, work=1.0)] * 3)
        await jobs.cancel(added[0].id)
        expected = {"queued": 2, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 1}
        assert (await _get(http, _SYSTEM))["jobs"] == expected
        await jobs.cancel(added[1].id)
        assert (await _get(http, _SYSTEM))["jobs"] == expected, "counted again within two seconds"


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A port whose server takes connections and says nothing."""
    connected: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connected.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in connected:
        writer.close()
    server.close()


@pytest.mark.parametrize("is_silent", [False, True], ids=["gone", "silent"])
async def test_a_database_that_cannot_be_reached_fails_nothing_else(
    pipeline: Pipeline,
    blobs: BlobStore,
    tmp_path: Path,
    silent_port: int,
    is_silent: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("atelier.jobs.counts._TIMEOUT_S", 0.1 if is_silent else 10.0)
    url = f"postgresql://u:p@127.0.0.1:{silent_port}/jobs" if is_silent else f"sqlite:///{tmp_path}/none/jobs.db"
    async with asyncio.timeout(5), _with_jobs(pipeline, blobs, tmp_path, url) as (http, _):
        system = await _get(http, _SYSTEM)
    assert system["jobs"] == "unknown"
    assert system["loaded_models"] == ["small-sdxl"]
    assert "the jobs cannot be counted" in caplog.text
