"""The database of jobs: a SQLite file, which the processes of one node share, or Postgres for several nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, CursorResult, Executable, Result, make_url, text
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine

from atelier.core.errors import JobsUnavailable
from atelier.stores.sqlite import SqliteFile

#: Seconds that a statement waits for the locks of others, and a caller for a connection.
_TIMEOUT_S = 10
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
#: Key of the lock under which processes that start at the same time make the tables.
_MIGRATION_LOCK = 7_284_127
#: Channel on which Postgres tells that something has changed.
CHANNEL = "atelier_jobs"


T = TypeVar("T")


class Reader(Protocol):
    """Runs statements that change nothing."""

    async def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None, /
    ) -> Result[*tuple[Any, ...]]: ...


class Writer(Protocol):
    """Runs the statements of a transaction."""

    async def execute(
        self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement, once for each of several parameters."""
        ...

    async def run_sync(self, call: Callable[[Connection], T], /) -> T:
        """Call a function with the connection."""
        ...


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
        self._file = None if self.is_postgres else SqliteFile(self.url, timeout_s=_TIMEOUT_S)
        self._engine = (
            create_async_engine(self.url, pool_pre_ping=True, pool_timeout=_TIMEOUT_S) if self.is_postgres else None
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
    async def writing(self, *, announces: bool = True) -> AsyncIterator[Writer]:
        """Run the body in a transaction, and tell those who wait for changes, unless it `announces` nothing.

        Raises JobsUnavailable.
        """
        with _our_errors():
            if self._file is not None:
                async with self._file.writing() as at_once:
                    yield at_once
                return
            assert self._engine is not None
            async with self._engine.begin() as connection:
                yield connection
                if announces:
                    await connection.execute(text(f"NOTIFY {CHANNEL}"))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """Run the statements of the body, each on the latest state. Raises JobsUnavailable."""
        with _our_errors():
            if self._file is not None:
                with self._file.reading() as at_once:
                    yield at_once
                return
            assert self._engine is not None
            async with self._engine.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        """Close all connections."""
        if self._file is not None:
            self._file.close()
        if self._engine is not None:
            await self._engine.dispose()


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
