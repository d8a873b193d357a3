"""The database of jobs: a SQLite file, which the processes of one node share, or Postgres for several nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Result,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from atelier.core.errors import JobsUnavailable

#: Seconds that a statement waits for the locks of others, and a caller for a connection.
_TIMEOUT_S = 10
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
#: Key of the lock under which processes that start at the same time make the tables.
_MIGRATION_LOCK = 7_284_127
#: Channel on which Postgres tells that something has changed.
CHANNEL = "atelier_jobs"


class Reader(Protocol):
    """Runs statements that change nothing."""

    async def execute(self, statement: Executable, /) -> Result[*tuple[Any, ...]]: ...


class Database:
    """An open database of jobs."""

    def __init__(self, url: str) -> None:
        """Open the database at `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.

        Raises ValueError for another URL. Nothing is connected yet.
        """
        self.url = _checked(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        #: The URL without its password.
        self.name = self.url.set(drivername=self.url.get_backend_name()).render_as_string()
        options = {} if self.is_postgres else {"connect_args": {"timeout": _TIMEOUT_S}}
        self._engine = create_async_engine(
            self.url, pool_pre_ping=self.is_postgres, pool_timeout=_TIMEOUT_S, **options
        )
        # SQLite has one writer at a time. Those of this process take turns, because it would let them poll.
        self._writer: AbstractAsyncContextManager[None] = nullcontext() if self.is_postgres else asyncio.Lock()
        self._reading: Engine | None = None
        if not self.is_postgres:
            event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_sqlite)
            # Readers wait for nobody, but for a file that is being recovered.
            self._reading = create_engine(
                self.url.set(drivername="sqlite"), isolation_level="AUTOCOMMIT", connect_args={"timeout": 1}
            )

    async def migrate(self) -> None:
        """Make the tables, or change them to what this version needs. Raises JobsUnavailable."""
        if self.url.database and not self.is_postgres:
            Path(self.url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with self.writing(announces=False) as connection:
            if self.is_postgres:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            await connection.run_sync(_upgrade)

    @asynccontextmanager
    async def writing(self, *, announces: bool = True) -> AsyncIterator[AsyncConnection]:
        """Run the body in a transaction, and tell those who wait for changes, unless it `announces` nothing.

        Raises JobsUnavailable.
        """
        with _our_errors():
            async with self._writer, self._engine.begin() as connection:
                yield connection
                if announces and self.is_postgres:
                    await connection.execute(text(f"NOTIFY {CHANNEL}"))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """Run the statements of the body, each on the latest state. Raises JobsUnavailable."""
        with _our_errors():
            if self._reading is not None:
                with self._reading.connect() as at_once:
                    yield _AtOnce(at_once)
                return
            async with self._engine.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
        if self._reading is not None:
            self._reading.dispose()


class _AtOnce:
    """Reads from SQLite in the event loop, which takes a third of a millisecond; changing threads takes two."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, /) -> Result[*tuple[Any, ...]]:
        return self._connection.execute(statement)


def _checked(url: str) -> URL:
    """Return the URL with its asynchronous driver."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in _DRIVERS or not parsed.database:
        raise ValueError(
            "ATELIER_DATABASE_URL is not supported; set sqlite:////folder/file or "
            "postgresql://user:password@host/database"
        )
    return parsed.set(drivername=_DRIVERS[parsed.drivername])


def _set_up_sqlite(connection: Any, _: object) -> None:
    # Otherwise the driver begins transactions itself, and too late.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction as a writer: one that begins as a reader cannot wait for other writers."""
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        raise
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise JobsUnavailable from error
