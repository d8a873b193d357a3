"""Transactions on a SQLite file: undone after an error or when nobody waits for them, and no burden to the loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from atelier.stores.sqlite import SqliteFile

_WAIT_S = 30.0
_ADD = text("INSERT INTO things VALUES (1)")


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteFile]:
    file = SqliteFile(make_url(f"sqlite:///{tmp_path / 'file.db'}"), timeout_s=_WAIT_S)
    async with file.writing() as connection:
        await connection.execute(text("CREATE TABLE things (number INTEGER)"))
    yield file
    file.close()


@pytest.fixture
def other(file: SqliteFile, tmp_path: Path) -> Iterator[sqlite3.Connection]:  # noqa: ARG001 which makes the file
    """Another process's connection, which has the lock."""
    with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


async def _count(file: SqliteFile) -> int:
    with file.reading() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM things"))).scalar_one())


async def _add(file: SqliteFile) -> None:
    async with file.writing() as connection:
        await connection.execute(_ADD)


async def test_an_error_undoes_the_transaction_and_the_next_one_goes_on(file: SqliteFile) -> None:
    async def add_and_fail() -> None:
        async with file.writing() as connection:
            await connection.execute(_ADD)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await add_and_fail()
    assert await _count(file) == 0
    await _add(file)
    assert await _count(file) == 1


async def test_the_loop_goes_on_while_another_process_writes(file: SqliteFile, other: sqlite3.Connection) -> None:
    adding = asyncio.create_task(_add(file))
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not adding.done()
    other.execute("COMMIT")
    async with asyncio.timeout(_WAIT_S):
        await adding
    assert await _count(file) == 1


async def test_the_loop_goes_on_while_a_new_file_is_opened_that_another_process_has(tmp_path: Path) -> None:
    name = tmp_path / "new.db"
    with closing(sqlite3.connect(name, isolation_level=None, check_same_thread=False)) as other:
        other.execute("CREATE TABLE things (number INTEGER)")
        other.execute("BEGIN EXCLUSIVE")
        file, goes_on = SqliteFile(make_url(f"sqlite:///{name}"), timeout_s=_WAIT_S), threading.Event()

        def commit_when_the_loop_goes_on() -> bool:
            did_go_on = goes_on.wait(_WAIT_S / 6)
            other.execute("COMMIT")
            return did_go_on

        committing = asyncio.get_running_loop().run_in_executor(None, commit_when_the_loop_goes_on)
        adding = asyncio.create_task(_add(file))
        await asyncio.sleep(0.05)
        goes_on.set()
        assert await committing
        await adding
        assert await _count(file) == 1
        file.close()


async def test_a_transaction_that_nobody_waits_for_lets_the_next_one_write(
    file: SqliteFile, other: sqlite3.Connection
) -> None:
    left = asyncio.create_task(_add(file))
    await asyncio.sleep(0.05)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    other.execute("COMMIT")
    async with asyncio.timeout(_WAIT_S / 3):
        await _add(file)
    assert await _count(file) == 1


async def test_a_transaction_that_is_left_in_its_body_is_undone(file: SqliteFile) -> None:
    async def add_and_wait() -> None:
        async with file.writing() as connection:
            await connection.execute(_ADD)
            await asyncio.Event().wait()

    left = asyncio.create_task(add_and_wait())
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait([left])
    assert await _count(file) == 0
    await _add(file)
    assert await _count(file) == 1
