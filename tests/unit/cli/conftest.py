"""The whole application over the small models on a port of this machine, with a worker that does its jobs."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx2
import pytest
import uvicorn
from starlette.types import ASGIApp
from typer.testing import CliRunner, Result

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.core.jobs import WorkerId
from atelier.hub.hub import Hub
from atelier.jobs.perform import Performer
from atelier.jobs.service import JobService
from atelier.jobs.worker import Worker
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from cli.main import app
from tests.unit.cli.breaking import Breaking
from tests.unit.cli.stages import SteppedStages

_MAX_BODY_BYTES, _MAX_PIXEL_STEPS = 10_000_000, 40_000_000


@dataclass(frozen=True)
class RunningServer:
    """A server, and what tests do to it."""

    address: str
    breaking: Breaking
    stages: SteppedStages
    loop: asyncio.AbstractEventLoop

    def hold(self) -> None:
        """Let denoising wait from now on."""
        self.loop.call_soon_threadsafe(self.stages.may_denoise.clear)

    def go_on(self) -> None:
        self.loop.call_soon_threadsafe(self.stages.may_denoise.set)
        self.loop.call_soon_threadsafe(self.stages.may_go_on.set)

    def hold_after_a_step(self) -> None:
        """Let denoising start, but wait after its first step."""
        self.loop.call_soon_threadsafe(self.stages.may_go_on.clear)
        self.loop.call_soon_threadsafe(self.stages.may_denoise.set)

    def jobs(self, **params: str) -> list[dict[str, Any]]:
        """The jobs of the server, the latest first."""
        found: list[dict[str, Any]] = httpx2.get(f"{self.address}/v1/jobs", params=params).json()["data"]
        return found


@pytest.fixture
def stages(small_stages: LocalStages) -> SteppedStages:
    return SteppedStages(small_stages)


@pytest.fixture
def server(
    stages: SteppedStages, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    with serving(stages, pipeline, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def zoo_server(
    local_stages: LocalStages, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The application over the zoo's models, which have LoRAs."""
    stages = SteppedStages(local_stages)
    pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=_MAX_PIXEL_STEPS))
    with serving(stages, pipeline, tmp_path_factory.mktemp("server")) as server:
        yield server


@contextmanager
def serving(
    stages: SteppedStages,
    pipeline: Pipeline,
    folder: Path,
    *,
    takes_jobs: bool = True,
    model_hub: Hub | None = None,
) -> Iterator[RunningServer]:
    """Serve a pipeline in another thread."""
    started = SimpleQueue[tuple[Breaking, asyncio.AbstractEventLoop, asyncio.Event]]()
    listener = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        async with _application(pipeline, folder, takes_jobs, model_hub) as application:
            breaking, stop = Breaking(application), asyncio.Event()
            config = uvicorn.Config(breaking, lifespan="off", log_level=logging.CRITICAL, timeout_graceful_shutdown=1)
            running = uvicorn.Server(config)
            task = asyncio.create_task(running.serve(sockets=[listener]))
            started.put((breaking, asyncio.get_running_loop(), stop))
            await stop.wait()
            running.should_exit = True
            await task

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    thread.start()
    breaking, loop, stop = started.get(timeout=30)
    server = RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", breaking, stages, loop)
    try:
        yield server
    finally:
        server.go_on()
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@asynccontextmanager
async def _application(
    pipeline: Pipeline, folder: Path, takes_jobs: bool, model_hub: Hub | None
) -> AsyncIterator[ASGIApp]:
    database = Database(f"sqlite:///{folder / 'jobs.db'}")
    await database.migrate()
    changes, files = Changes(database), BlobStore((folder / "jobs").as_uri(), ttl=timedelta(hours=1))
    blobs = BlobStore((folder / "images").as_uri(), ttl=timedelta(hours=1))
    perform = Performer(pipeline, files, lambda _: None, model_hub).perform
    claims = Claims(database, WorkerId("one"), lease_s=15.0)
    tasks = [
        asyncio.create_task(changes.watch()),
        asyncio.create_task(Worker(claims, changes, perform, max_running=1).run()),
    ]
    service = JobService(Jobs(database), changes, files) if takes_jobs else None
    yield build_app(pipeline, blobs, service, max_body_bytes=_MAX_BODY_BYTES, model_hub=model_hub)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await database.close()


class Atelier:
    """The command `atelier`, in an empty folder."""

    def __init__(self, address: str) -> None:
        self._environment = {"ATELIER_SERVER": address, "COLUMNS": "200"}

    def __call__(self, *arguments: str, answer: str | None = None) -> Result:
        """Run a command; `answer` is what the user types."""
        return CliRunner().invoke(app, arguments, env=self._environment, input=answer)


@pytest.fixture
def atelier(server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Atelier:
    monkeypatch.chdir(tmp_path)
    return Atelier(server.address)
