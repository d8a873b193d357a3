"""The stores that Routers and Workers share: images behind URLs, jobs, cached results, and downloaded models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from atelier.catalogue.loras import LoraLibrary
from atelier.catalogue.storage import Storage
from atelier.core.errors import JobsUnavailable
from atelier.hub.hub import Hub
from atelier.jobs.receivers import Receivers
from atelier.jobs.service import JobService
from atelier.jobs.signatures import secret_of
from atelier.pipeline.cache import ResultCache
from atelier.pipeline.stages import Stages
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from atelier.stores.results import Results
from atelier.stores.seeds import Seeds
from deployments.one_node import OnOneNode
from deployments.settings import Settings

_BUCKET, _DATABASE = "s3://bucket/prefix", "postgresql://user:password@host/database"


async def open_blobs(settings: Settings) -> BlobStore:
    """Open the store of images behind URLs.

    Raises ValueError or RuntimeError if ATELIER_BLOBS_URL is wrong, cannot be used, or is a folder that a replica on
    another node does not share.
    """
    blobs = BlobStore(settings.blobs_url, ttl=settings.blobs_ttl)
    await _check_folder(blobs, settings)
    await blobs.check()
    return blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStores:
    """The database of jobs and cached results, and the stores of their files."""

    database: Database
    jobs: JobService
    cached_files: BlobStore
    cache_ttl: timedelta

    def cache(self, stages: Stages, loras: LoraLibrary, *, max_bytes: int) -> ResultCache:
        """Return the cache of the results of `stages`."""
        results, seeds = Results(self.database), Seeds(self.database)
        return ResultCache(results, seeds, self.cached_files, stages, loras, max_bytes=max_bytes, ttl=self.cache_ttl)


async def open_jobs(settings: Settings) -> JobStores:
    """Open the database of jobs and results, with its tables, and the stores of their files.

    Raises ValueError or RuntimeError if ATELIER_DATABASE_URL or ATELIER_BLOBS_URL is wrong, cannot be used, or is a
    file or folder that a replica on another node does not share, or if ATELIER_WEBHOOK_SECRET is wrong.
    """
    receivers = None if webhook_key(settings) is None else Receivers(settings.webhook_hosts)
    database = Database(settings.database_url)
    files, cached_files = (
        BlobStore(f"{settings.blobs_url.rstrip('/')}/{name}", ttl=ttl)
        for name, ttl in (("jobs", settings.jobs_ttl), ("results", settings.cache_ttl))
    )
    await _check_folder(files, settings)
    if not database.is_postgres:
        file = OnOneNode(setting="ATELIER_DATABASE_URL", value=settings.database_url, what="file", instead=_DATABASE)
        await file.check()
    try:
        await database.migrate()
    except JobsUnavailable as error:
        raise RuntimeError(f"ATELIER_DATABASE_URL = {database.name!r} cannot be used: {error.__cause__}") from None
    return JobStores(
        database=database,
        jobs=JobService(Jobs(database), Changes(database), files, receivers=receivers),
        cached_files=cached_files,
        cache_ttl=settings.cache_ttl,
    )


def open_hub(catalogue: Catalogue) -> Hub:
    """Return the model hub, for the folders that the catalogue's graph uses; opens no connection."""
    storage = Storage.from_environment(os.environ, require_weights=True)
    loras_dir = catalogue.loras.folder or storage.loras_dir
    return Hub(storage, loras_dir, in_use={(files.source, files.revision) for files in _all_files(catalogue)})


def _all_files(catalogue: Catalogue) -> Iterator[Files]:
    """Yield the places of all files that the catalogue names, but for single files."""
    for model in catalogue.models:
        yield model.files
        if model.vae is not None:
            yield model.vae
    yield from (entry.files for entry in catalogue.controlnets)
    yield from (entry.files for entry in catalogue.annotators)


def webhook_key(settings: Settings) -> bytes | None:
    """Return the key that signs webhooks, or None if none are sent. Raises ValueError if the secret is wrong."""
    secret = settings.webhook_secret
    return None if secret is None else secret_of(secret.get_secret_value())


async def _check_folder(blobs: BlobStore, settings: Settings) -> None:
    if blobs.folder is not None:
        folder = OnOneNode(setting="ATELIER_BLOBS_URL", value=settings.blobs_url, what="folder", instead=_BUCKET)
        await folder.check()
