"""An application with jobs, and a worker that does them in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.core.jobs import WorkerId
from atelier.hub.hub import Hub
from atelier.jobs.perform import Performer
from atelier.jobs.service import JobService
from atelier.jobs.worker import Worker
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs

MAX_QUEUED = 6
_MAX_BODY_BYTES = 100_000


@dataclass
class JobServer:
    """An application with jobs. Its worker runs within `working`."""

    pipeline: Pipeline
    database: Database
    files: BlobStore
    records: list[RequestRecord] = field(default_factory=list)
    hub: Hub | None = None

    def __post_init__(self) -> None:
        self.changes = Changes(self.database)
        self.service = JobService(Jobs(self.database), self.changes, self.files, max_queued=MAX_QUEUED)

    def app(self, blobs: BlobStore) -> ASGIApp:
        return build_app(self.pipeline, blobs, self.service, max_body_bytes=_MAX_BODY_BYTES, model_hub=self.hub)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        perform = Performer(self.pipeline, self.files, self.records.append, self.hub).perform
        claims = Claims(self.database, WorkerId("one"), lease_s=15.0)
        task = asyncio.create_task(Worker(claims, self.changes, perform, max_running=4).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def job_server(pipeline: Pipeline, folder: Path) -> AsyncIterator[JobServer]:
    """Open a server whose jobs are in a folder."""
    database = Database(f"sqlite:///{folder / 'jobs.db'}")
    await database.migrate()
    server = JobServer(pipeline, database, BlobStore((folder / "jobs").as_uri(), ttl=timedelta(hours=1)))
    watching = asyncio.create_task(server.changes.watch())
    yield server
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await database.close()
