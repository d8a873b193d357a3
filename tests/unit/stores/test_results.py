"""Results and seeds in a database, as several processes share them."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from atelier.core.errors import IdempotencyConflict, JobsUnavailable
from atelier.stores.database import Database
from atelier.stores.results import Results, ResultStats
from atelier.stores.seeds import Seeds
from tests.unit.stores.queues import Clock


@pytest.fixture
def results(database: Database, clock: Clock) -> Results:
    return Results(database, clock=clock)


async def test_a_result_is_found_by_any_process(results: Results, database: Database) -> None:
    await results.put("a", {"images": ["one"]}, 10)
    await results.put("b", {"images": ["two"]}, 10)
    found = await Results(database).find(["a", "c"], newer_than=0)
    assert found == {"a": {"images": ["one"]}}


async def test_a_result_that_is_stored_again_is_replaced(results: Results) -> None:
    await results.put("a", {"images": ["one"]}, 10)
    await results.put("a", {"images": ["two"]}, 30)
    assert await results.find(["a"], newer_than=0) == {"a": {"images": ["two"]}}
    assert await results.stats() == ResultStats(hits=0, misses=0, entries=1, num_bytes=30)


async def test_an_old_result_is_not_found(results: Results) -> None:
    await results.put("a", {}, 10)
    assert await results.find(["a"], newer_than=999.0) == {"a": {}}
    assert await results.find(["a"], newer_than=1000.0) == {}


async def test_a_deleted_result_is_not_found(results: Results) -> None:
    await results.put("a", {}, 10)
    await results.put("b", {}, 10)
    await results.delete("a")
    assert await results.find(["a", "b"], newer_than=0) == {"b": {}}


async def test_hits_and_misses_of_all_processes_are_counted(results: Results, database: Database) -> None:
    other = Results(database)
    for counted in (results, other):
        counted.count(None)
        counted.count("a")
        counted.count("a")
        await counted.flush()
    stats = await results.stats()
    assert (stats.hits, stats.misses) == (4, 2)


async def test_counts_that_cannot_be_written_are_written_later(results: Results, database: Database) -> None:
    results.count(None)
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE result_counts RENAME TO away"))
    with pytest.raises((JobsUnavailable, ProgrammingError)):
        await results.flush()
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE away RENAME TO result_counts"))
    assert (await results.stats()).misses == 1


async def test_the_result_that_was_not_used_for_longest_makes_room(results: Results, clock: Clock) -> None:
    for key in ("a", "b", "c"):
        await results.put(key, {"key": key}, 10)
        clock.now += 1
    results.count("a")
    await results.flush()
    assert await results.shrink(max_bytes=30) == []
    assert await results.shrink(max_bytes=29) == [{"key": "b"}]
    assert set(await results.find(["a", "b", "c"], newer_than=0)) == {"a", "c"}


async def test_results_beyond_an_age_are_deleted_and_returned(results: Results, clock: Clock) -> None:
    for key in ("a", "b"):
        await results.put(key, {"key": key}, 10)
        clock.now += 10
    assert await results.expire(older_than=1010.0) == [{"key": "a"}]
    assert await results.find(["a", "b"], newer_than=0) == {"b": {"key": "b"}}


async def test_the_first_seed_of_a_key_stays(database: Database) -> None:
    seeds = Seeds(database)
    assert await seeds.first("ann", "k", fingerprint="f", seed=2**32 - 1) == 2**32 - 1
    assert await seeds.first("ann", "k", fingerprint="f", seed=8) == 2**32 - 1
    assert await seeds.first("bob", "k", fingerprint="f", seed=9) == 9
    assert await seeds.first("ann", "other", fingerprint="f", seed=10) == 10


async def test_another_request_with_the_same_key_is_refused(database: Database) -> None:
    seeds = Seeds(database)
    await seeds.first("ann", "k", fingerprint="f", seed=7)
    with pytest.raises(IdempotencyConflict):
        await seeds.first("ann", "k", fingerprint="g", seed=7)


async def test_old_seeds_are_deleted(database: Database, clock: Clock) -> None:
    seeds = Seeds(database, clock=clock)
    await seeds.first("", "old", fingerprint="", seed=7)
    clock.now += 10
    await seeds.first("", "new", fingerprint="", seed=7)
    await seeds.expire(older_than=1005.0)
    assert await seeds.first("", "old", fingerprint="", seed=8) == 8
    assert await seeds.first("", "new", fingerprint="", seed=8) == 7
