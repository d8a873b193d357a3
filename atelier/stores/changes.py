"""Wakes those who wait for something to be written to the database, by any process.

Postgres notifies its listeners. A SQLite file has a number that every commit of another connection changes, and that
takes microseconds to read.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing, suppress

import psycopg

from atelier.stores.database import CHANNEL, Database

logger = logging.getLogger(__name__)

#: Seconds between two looks at a SQLite file, and before Postgres is connected again.
_LOOK_S, _RECONNECT_S = 0.02, 1.0


class Changes:
    """The changes of a database, for any number of tasks of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._num_changes = 0
        self._changed = asyncio.Event()

    @property
    def num_seen(self) -> int:
        """Number of changes so far; take it before reading what may change."""
        return self._num_changes

    async def after(self, num_seen: int, *, timeout_s: float) -> None:
        """Return when there have been more changes than `num_seen`, or at the time limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._num_changes == num_seen:
                    await self._changed.wait()

    async def watch(self) -> None:
        """Look for changes until cancelled. A lost connection counts as a change and is opened again."""
        while True:
            try:
                source = self._notified() if self._database.is_postgres else self._written()
                async with aclosing(source) as changes:
                    async for _ in changes:
                        self._tell()
            except (psycopg.Error, sqlite3.Error) as error:
                logger.warning("cannot watch the database of jobs, will try again: %s", error)
            self._tell()
            await asyncio.sleep(_RECONNECT_S)

    def _tell(self) -> None:
        self._num_changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _notified(self) -> AsyncGenerator[None]:
        url = self._database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            # What was written before.
            yield
            async for _ in connection.notifies():
                yield

    async def _written(self) -> AsyncGenerator[None]:
        # Not through the pool, whose thread would make each look a hundred times as long.
        with closing(sqlite3.connect(self._database.url.database or "", timeout=0)) as connection:
            last = None
            while True:
                version = connection.execute("PRAGMA data_version").fetchone()
                if version != last:
                    last = version
                    yield
                await asyncio.sleep(_LOOK_S)
