"""Image files with a time to live, shared by all Routers: in a folder of one node, or in a bucket for several nodes.

A blob can be read until its time to live is over. Who deletes it then depends on the place: a Router sweeps a folder,
and a bucket has lifecycle rules, so that no Router lists it. Names from clients are matched against the form of
blobs' names before any look-up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from obstore.exceptions import BaseError

from atelier.core.errors import StoreUnavailable
from atelier.stores.expiry import is_expired, sweep
from atelier.stores.names import is_blob, name_of
from atelier.stores.opening import open_store, reason_of

logger = logging.getLogger(__name__)

#: Seconds that a call to the store may take, with all of its retries.
TIMEOUT_S = 10.0
#: What buckets answer if they do not exist. obstore raises FileNotFoundError then, as for a missing object.
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
#: The object that `check` stores. Clients cannot read it, because its name is not a blob's.
_CHECK = "start-check"


class BlobStore:
    """Blobs with a time to live, at a `file://`, `s3://`, `gs://` or `az://` URL."""

    def __init__(self, url: str, *, ttl: timedelta) -> None:
        """Open the store; its folder is created if there is none. Raises ValueError for a wrong URL."""
        self._store, folder = open_store(url)
        self._url, self._ttl = url, ttl
        #: The folder of the blobs, or None if they are in a bucket.
        self.folder = folder
        self._is_failing = False

    async def check(self) -> None:
        """Store an empty file and read it. Raises RuntimeError, with the reason, if the store does not do both."""
        try:
            async with self._calling():
                await self._store.put_async(_CHECK, b"")
                await self._store.get_async(_CHECK)
        except StoreUnavailable as error:
            reason = reason_of(error.__cause__)
            raise RuntimeError(f"ATELIER_BLOBS_URL = {self._url!r} cannot be used: {reason}") from None

    async def put(self, data: bytes, suffix: str) -> str:
        """Store the content and return its name; storing it again renews its time to live.

        Raises StoreUnavailable.
        """
        name = name_of(data, suffix)
        async with self._calling():
            await self._store.put_async(name, data)
        return name

    async def get(self, name: str) -> bytes | None:
        """Return the content, or None if there is no such blob or it has expired. Raises StoreUnavailable."""
        if not is_blob(name):
            return None
        async with self._calling():
            try:
                found = await self._store.get_async(name)
                if is_expired(found.meta["last_modified"], self._ttl):
                    return None
                return bytes(await found.bytes_async())
            except FileNotFoundError as error:
                if any(code in str(error) for code in _NO_BUCKET):
                    raise
                return None

    async def delete(self, names: Sequence[str]) -> None:
        """Delete blobs; those that are gone already are no error. Raises StoreUnavailable."""
        async with self._calling():
            for name in filter(is_blob, names):
                with suppress(FileNotFoundError):
                    await self._store.delete_async(name)

    async def sweep(self) -> None:
        """Delete expired blobs from a folder until cancelled. Returns at once if the blobs are in a bucket."""
        if self.folder is not None:
            await sweep(self.folder, self._ttl)

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[None]:
        """Raise StoreUnavailable if the store fails or takes more than `TIMEOUT_S`.

        The reason is logged once, when the store begins to fail.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                yield
        except (BaseError, OSError) as error:
            if not self._is_failing:
                logger.error("the store of images at %s fails: %s", self._url, reason_of(error))
            self._is_failing = True
            raise StoreUnavailable from error
        if self._is_failing:
            logger.warning("the store of images at %s works again", self._url)
        self._is_failing = False
