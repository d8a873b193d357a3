"""The stores that Routers and Workers share: that of images behind URLs, and that of jobs."""

from __future__ import annotations

from atelier.core.errors import JobsUnavailable
from atelier.jobs.receivers import Receivers
from atelier.jobs.service import JobService
from atelier.jobs.signatures import secret_of
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
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


async def open_jobs(settings: Settings) -> tuple[Database, JobService]:
    """Open the database of jobs, with its tables, and the store of their files.

    Raises ValueError or RuntimeError if ATELIER_DATABASE_URL or ATELIER_BLOBS_URL is wrong, cannot be used, or is a
    file or folder that a replica on another node does not share, or if ATELIER_WEBHOOK_SECRET is wrong.
    """
    receivers = None if webhook_key(settings) is None else Receivers(settings.webhook_hosts)
    database = Database(settings.database_url)
    files = BlobStore(f"{settings.blobs_url.rstrip('/')}/jobs", ttl=settings.jobs_ttl)
    await _check_folder(files, settings)
    if not database.is_postgres:
        file = OnOneNode(setting="ATELIER_DATABASE_URL", value=settings.database_url, what="file", instead=_DATABASE)
        await file.check()
    try:
        await database.migrate()
    except JobsUnavailable as error:
        raise RuntimeError(f"ATELIER_DATABASE_URL = {database.name!r} cannot be used: {error.__cause__}") from None
    return database, JobService(Jobs(database), Changes(database), files, receivers=receivers)


def webhook_key(settings: Settings) -> bytes | None:
    """Return the key that signs webhooks, or None if none are sent. Raises ValueError if the secret is wrong."""
    secret = settings.webhook_secret
    return None if secret is None else secret_of(secret.get_secret_value())


async def _check_folder(blobs: BlobStore, settings: Settings) -> None:
    if blobs.folder is not None:
        folder = OnOneNode(setting="ATELIER_BLOBS_URL", value=settings.blobs_url, what="folder", instead=_BUCKET)
        await folder.check()
