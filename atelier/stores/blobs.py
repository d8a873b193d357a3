"""Image files with a time to live, shared by all Routers: `file://` on one node, `s3://` on several.

A blob's name is the SHA-256 of its content with a suffix, so equal files are one blob and names cannot be guessed.
Names from clients are matched against that form before any look-up.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{64}\.(png|jpeg|webp)")


class BlobStore:
    """Blobs with a time to live, on any object store that obstore knows."""

    def __init__(self, url: str, *, ttl: timedelta) -> None:
        """Open the store at `url`; a folder is created if there is none, readable by this user only."""
        if urlsplit(url).scheme == "file":
            Path(url2pathname(urlsplit(url).path)).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store: ObjectStore = from_url(url)
        self._ttl = ttl

    async def put(self, data: bytes, suffix: str) -> str:
        """Store the content and return its name; storing it again renews its time to live."""
        name = f"{hashlib.sha256(data).hexdigest()}.{suffix}"
        await self._store.put_async(name, data)
        return name

    async def get(self, name: str) -> bytes | None:
        """Return the content, or None if there is no such blob or it has expired."""
        if _NAME.fullmatch(name) is None:
            return None
        try:
            found = await self._store.get_async(name)
        except (NotFoundError, FileNotFoundError):
            return None
        if self._is_expired(found.meta["last_modified"]):
            return None
        return bytes(await found.bytes_async())

    async def delete_expired(self) -> int:
        """Delete expired blobs and return their number."""
        expired = [
            blob["path"]
            async for chunk in self._store.list()
            for blob in chunk
            if _NAME.fullmatch(blob["path"]) and self._is_expired(blob["last_modified"])
        ]
        if expired:
            await self._store.delete_async(expired)
            logger.info("deleted %d expired blobs", len(expired))
        return len(expired)

    async def sweep(self) -> None:
        """Delete expired blobs four times per time to live, until cancelled."""
        while True:
            await asyncio.sleep(self._ttl.total_seconds() / 4)
            try:
                await self.delete_expired()
            except BaseError:
                logger.exception("cannot delete expired blobs; will try again")

    def _is_expired(self, last_modified: datetime.datetime) -> bool:
        return datetime.datetime.now(datetime.UTC) - last_modified > self._ttl
