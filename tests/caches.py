"""Caches of results that tests give to pipelines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.cache import ResultCache
from atelier.pipeline.stages import Stages
from atelier.stores.blobs import BlobStore
from atelier.stores.database import Database
from atelier.stores.results import Results
from atelier.stores.seeds import Seeds

HOUR = timedelta(hours=1)


@asynccontextmanager
async def cache_in(
    folder: Path, stages: Stages, catalogue: Catalogue, *, max_bytes: int = 10_000_000, ttl: timedelta = HOUR
) -> AsyncIterator[ResultCache]:
    """Open a cache as one process has it; those in the same folder share their results."""
    database = Database(f"sqlite:///{folder / 'jobs.db'}")
    await database.migrate()
    files = BlobStore((folder / "results").as_uri(), ttl=HOUR)
    yield ResultCache(
        Results(database), Seeds(database), files, stages, catalogue.loras, max_bytes=max_bytes, ttl=ttl
    )
    await database.close()
