"""A SQLite file, read and written in the event loop: a statement takes less time than a change of threads.

Only what waits has a thread: for the lock, when another process has it, and for the disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, CursorResult, Executable, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

T = TypeVar("T")


class AtOnce:
    """Runs statements in the event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(
        self, statement: Executable, parameters: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None, /
    ) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement, once for each of several parameters."""
        return self._connection.execute(statement, parameters)

    async def run_sync(self, call: Callable[[Connection], T]) -> T:
        """Call a function with the connection."""
        return call(self._connection)


class SqliteFile:
    """An open file. Transactions that write take turns, because SQLite would let them poll."""

    def __init__(self, url: URL, *, timeout_s: float) -> None:
        """`timeout_s` is how long a transaction waits for those of other processes."""
        url = url.set(drivername="sqlite")
        self._timeout_s = timeout_s
        connect_args = {"timeout": timeout_s, "check_same_thread": False}
        self._writing = create_engine(url, connect_args=connect_args, poolclass=QueuePool)
        event.listen(self._writing, "connect", _set_up)
        event.listen(self._writing, "begin", _begin)
        # Readers wait for nobody, but for a file that is being recovered.
        self._reading = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"timeout": 1})
        self._turn = asyncio.Lock()
        # A commit does not wait for a transaction that waits for it.
        self._locking, self._committing = (ThreadPoolExecutor(1, f"sqlite {name}") for name in ("lock", "commit"))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AtOnce]:
        """Run the body in a transaction."""
        async with self._turn:
            connection = await self._begun()
            try:
                yield AtOnce(connection)
            except BaseException:
                connection.close()
                raise
            await asyncio.shield(_in(self._committing, lambda: _commit(connection)))

    @contextmanager
    def reading(self) -> Iterator[AtOnce]:
        """Run the statements of the body, each on the latest state."""
        with self._reading.connect() as connection:
            yield AtOnce(connection)

    def close(self) -> None:
        """Close all connections."""
        self._locking.shutdown()
        self._committing.shutdown()
        self._writing.dispose()
        self._reading.dispose()

    async def _begun(self) -> Connection:
        """Return a connection that has the lock of the file."""
        # To open a connection may take as long as others have the file.
        if self._is_any_open:
            try:
                return self._begin(timeout_s=0)
            except OperationalError as error:
                if not isinstance(error.orig, sqlite3.OperationalError) or not _is_busy(error.orig):
                    raise
        begun = _in(self._locking, lambda: self._begin(timeout_s=self._timeout_s))
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(_give_up)
            raise

    @property
    def _is_any_open(self) -> bool:
        """Whether a connection is open and not in use."""
        pool = self._writing.pool
        return isinstance(pool, QueuePool) and pool.checkedin() > 0

    def _begin(self, *, timeout_s: float) -> Connection:
        connection = self._writing.connect()
        try:
            connection.connection.cursor().execute(f"PRAGMA busy_timeout = {round(1000 * timeout_s)}")
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection


def _set_up(connection: Any, _: object) -> None:
    # Otherwise the driver begins transactions itself, and too late.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    """Begin a transaction as a writer: one that begins as a reader cannot wait for other writers."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _in(thread: Executor, call: Callable[[], T]) -> asyncio.Future[T]:
    return asyncio.get_running_loop().run_in_executor(thread, call)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Whether another process has the lock; the lowest byte is the code, the others say why."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _commit(connection: Connection) -> None:
    try:
        connection.commit()
    finally:
        connection.close()


def _give_up(begun: asyncio.Future[Connection]) -> None:
    """Undo a transaction that nobody waits for any more."""
    if begun.exception() is None:
        begun.result().close()
