"""Results of requests that may come again, by the hash of all that their images depend on; shared by all processes.

Hits, misses and times of use are written by `flush`, so that a look-up writes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Delete, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
from sqlalchemy.dialects.postgresql import insert as insert_on_postgres
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as insert_on_sqlite

from atelier.core.jobs import Json
from atelier.stores.database import Database
from atelier.stores.tables import result_counts, results

#: Number of results that one statement deletes.
_MAX_DELETED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultStats:
    """Numbers of the stored results."""

    #: Look-ups that found a result, and that did not, since the database was made.
    hits: int
    misses: int
    #: Number of results, and the size of their files.
    entries: int
    num_bytes: int


class Results:
    """The results in a database. All methods raise JobsUnavailable."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds."""
        self._database = database
        self._clock = clock
        self._used: set[str] = set()
        self._counts: Counter[str] = Counter()

    async def find(self, keys: Sequence[str], *, newer_than: float) -> Mapping[str, Json]:
        """Return the results with these keys that were stored after this time, as far as there are any."""
        found = select(results.c.key, results.c.result)
        found = found.where(results.c.key.in_(keys), results.c.created_at > newer_than)
        async with self._database.reading() as connection:
            return {row.key: row.result for row in await connection.execute(found)}

    def count(self, key: str | None) -> None:
        """Count the use of a result, or with None a request whose result there was not."""
        self._counts["misses" if key is None else "hits"] += 1
        if key is not None:
            self._used.add(key)

    async def put(self, key: str, result: Json, num_bytes: int) -> None:
        """Store a result; one that is there under the key is replaced."""
        now = self._clock()
        values = {"result": result, "num_bytes": num_bytes, "created_at": now, "used_at": now}
        stored = self._insert(results).values(key=key, **values)
        async with self._database.writing(announces=False) as connection:
            await connection.execute(stored.on_conflict_do_update(index_elements=["key"], set_=values))

    async def delete(self, key: str) -> None:
        """Delete a result."""
        async with self._database.writing(announces=False) as connection:
            await connection.execute(delete(results).where(results.c.key == key))

    async def stats(self) -> ResultStats:
        """Return the numbers of all processes; those of others are up to some seconds old."""
        await self.flush()
        sizes = select(func.count(), func.coalesce(func.sum(results.c.num_bytes), 0))
        async with self._database.reading() as connection:
            entries, num_bytes = (await connection.execute(sizes)).one()
            counts = {row.name: row.value for row in await connection.execute(select(result_counts))}
        return ResultStats(
            hits=counts.get("hits", 0),
            misses=counts.get("misses", 0),
            entries=int(entries),
            num_bytes=int(num_bytes),
        )

    async def flush(self) -> None:
        """Write down what was counted since the last call."""
        used, counts = self._used, self._counts
        self._used, self._counts = set(), Counter()
        if not counts:
            return
        try:
            async with self._database.writing(announces=False) as connection:
                await connection.execute(update(results).where(results.c.key.in_(used)).values(used_at=self._clock()))
                for name, number in counts.items():
                    added = self._insert(result_counts).values(name=name, value=number)
                    more = {"value": result_counts.c.value + number}
                    await connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=more))
        except BaseException:
            self._used |= used
            self._counts += counts
            raise

    async def expire(self, *, older_than: float) -> list[Json]:
        """Delete results that were stored before this time, and return them."""
        deleted: list[Json] = []
        while some := await self._deleted(_oldest(older_than)):
            deleted += some
        return deleted

    async def shrink(self, *, max_bytes: int) -> list[Json]:
        """Delete the results that were not used for longest until the others' files fit. Returns what it deletes."""
        by_use = select(results.c.key, results.c.num_bytes).order_by(results.c.used_at.desc(), results.c.key)
        async with self._database.reading() as connection:
            total = (await connection.execute(select(func.coalesce(func.sum(results.c.num_bytes), 0)))).scalar_one()
            if total <= max_bytes:
                return []
            rows = (await connection.execute(by_use)).all()
        kept_bytes, too_much = 0, list[str]()
        for row in rows:
            kept_bytes += row.num_bytes
            if kept_bytes > max_bytes:
                too_much.append(row.key)
        deleted: list[Json] = []
        for start in range(0, len(too_much), _MAX_DELETED):
            keys = too_much[start : start + _MAX_DELETED]
            deleted += await self._deleted(delete(results).where(results.c.key.in_(keys)))
        return deleted

    async def _deleted(self, statement: Delete) -> list[Json]:
        async with self._database.writing(announces=False) as connection:
            return list((await connection.execute(statement.returning(results.c.result))).scalars())

    def _insert(self, table: Table) -> SqliteInsert | PostgresInsert:
        return insert_on_postgres(table) if self._database.is_postgres else insert_on_sqlite(table)


def _oldest(older_than: float) -> Delete:
    first = select(results.c.key).where(results.c.created_at < older_than).limit(_MAX_DELETED)
    return delete(results).where(results.c.key.in_(first))
