"""Seeds that were drawn for requests which name none, so that the same request can make the same images again."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from atelier.core.errors import IdempotencyConflict
from atelier.stores.database import Database
from atelier.stores.tables import seeds


class Seeds:
    """The seeds in a database. All methods raise JobsUnavailable."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds."""
        self._database = database
        self._clock = clock

    async def first(self, owner: str, key: str, *, fingerprint: str, seed: int) -> int:
        """Return the seed that was stored first under an owner's key, which is this one if there was none.

        Raises IdempotencyConflict if it was stored with another fingerprint.
        """
        for _ in range(2):
            async with self._database.reading() as connection:
                same = select(seeds).where(seeds.c.owner == owner, seeds.c.key == key)
                row = (await connection.execute(same)).one_or_none()
            if row is not None:
                if row.fingerprint != fingerprint:
                    raise IdempotencyConflict
                return int(row.seed)
            new = {"owner": owner, "key": key, "fingerprint": fingerprint, "seed": seed, "created_at": self._clock()}
            try:
                async with self._database.writing(announces=False) as connection:
                    await connection.execute(insert(seeds), new)
                return seed
            except IntegrityError:
                # Another process was faster.
                continue
        raise AssertionError("a key that could not be stored is there")

    async def expire(self, *, older_than: float) -> None:
        """Delete the seeds that were stored before this time."""
        async with self._database.writing(announces=False) as connection:
            await connection.execute(delete(seeds).where(seeds.c.created_at < older_than))
