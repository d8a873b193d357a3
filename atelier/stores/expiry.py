"""When a blob has expired, and how expired blobs leave a folder. In buckets, lifecycle rules delete them.

Only one process at a time sweeps a folder, the one that holds the lock on its file `.sweeper`. The system releases
the lock when the process ends, and another one takes it at its next turn.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from atelier.stores.names import is_blob

logger = logging.getLogger(__name__)


def is_expired(last_modified: datetime, ttl: timedelta) -> bool:
    """Return whether a blob is older than its time to live."""
    return datetime.now(UTC) - last_modified > ttl


async def sweep(folder: Path, ttl: timedelta) -> None:
    """Delete expired blobs four times per time to live, until cancelled; does nothing while another process does."""
    with await asyncio.to_thread((folder / ".sweeper").open, "w") as lock:
        while True:
            await asyncio.sleep(ttl.total_seconds() / 4)
            try:
                if _holds(lock):
                    await asyncio.to_thread(delete_expired, folder, ttl)
            except OSError:
                logger.exception("cannot delete expired blobs in %s; will try again", folder)


def delete_expired(folder: Path, ttl: timedelta) -> int:
    """Delete the expired blobs in a folder and return their number. Files with other names are left alone."""
    expired = [file for file in folder.iterdir() if is_blob(file.name) and is_expired(_last_modified(file), ttl)]
    for file in expired:
        file.unlink()
    if expired:
        logger.info("deleted %d expired blobs in %s", len(expired), folder)
    return len(expired)


def _last_modified(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _holds(lock: TextIO) -> bool:
    """Return whether this process has the lock or can take it now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
