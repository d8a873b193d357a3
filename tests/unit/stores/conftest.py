from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from atelier.stores.database import Database
from tests.unit.stores.queues import Clock, Queue


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An empty database, with its tables."""
    database = Database(database_url)
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database)
