"""Jobs in a database: in which order they are claimed, who has them, and what is known of them afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from atelier.core.errors import IdempotencyConflict
from atelier.core.jobs import Job
from atelier.stores.changes import Changes
from atelier.stores.database import Database
from atelier.stores.tables import metadata
from tests.unit.stores.queues import JOB, Queue

_WAIT_S = 30.0


async def test_jobs_are_counted_by_state(queue: Queue) -> None:
    none = {"queued": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert await queue.jobs.num_by_state() == none
    for _ in range(4):
        job = await queue.add(owner="ann")
    await queue.jobs.cancel(job.id)
    await queue.worker().claim(1)
    assert await queue.jobs.num_by_state() == none | {"queued": 2, "running": 1, "cancelled": 1}


async def test_a_job_is_stored_as_it_was_handed_in(queue: Queue) -> None:
    job = await queue.add(owner="ann", priority="batch", rank=5, deadline_s=9.5, operation="upscale")
    assert (job.params, job.work, job.owner, job.operation) == (JOB.params, 100.0, "ann", "upscale")
    assert (job.state, job.priority, job.rank, job.created_at, job.deadline_at) == (
        "queued",
        "batch",
        5,
        1000,
        1009.5,
    )
    assert (job.started_at, job.finished_at, job.attempts, job.deaths) == (None, None, 0, 0)
    assert (job.progress, job.result, job.error, job.is_cancel_requested) == (None, None, None, False)
    assert await queue.now(job) == job
    assert await queue.jobs.get("job_none") is None


async def test_a_key_returns_the_job_that_was_first_handed_in_with_it(queue: Queue) -> None:
    first = await queue.add(idempotency_key="order-7", fingerprint="a")
    again = await queue.add(idempotency_key="order-7", fingerprint="a", params={"seed": 4})
    assert again == first
    other = await queue.add(idempotency_key="order-7", fingerprint="a", owner="ann")
    assert other.id != first.id
    with pytest.raises(IdempotencyConflict, match="order-7"):
        await queue.add(idempotency_key="order-7", fingerprint="b")
    together = await asyncio.gather(
        *(queue.add(idempotency_key="order-8", fingerprint="a", work=float(index)) for index in range(8))
    )
    assert len({job.id for job in together}) == 1


async def test_jobs_are_added_together_or_not_at_all(queue: Queue) -> None:
    await queue.add(idempotency_key="order-7", fingerprint="a")
    several = [JOB, replace(JOB, idempotency_key="order-7", fingerprint="b")]
    with pytest.raises(IdempotencyConflict):
        await queue.jobs.add(several)
    assert len(await queue.jobs.page("", max_jobs=10)) == 1


async def test_pages_of_jobs_have_each_once_and_the_latest_first(queue: Queue) -> None:
    added = []
    for index in range(7):
        queue.clock.now += index % 2
        added.append(await queue.add(operation="upscale" if index == 2 else "generate"))
    await queue.add(owner="ann")
    found, before = list[Job](), None
    while page := await queue.jobs.page("", before=before, max_jobs=3):
        found += page
        before = page[-1]
    assert {job.id for job in found} == {job.id for job in added}
    assert len(found) == 7
    assert [job.created_at for job in found] == sorted((job.created_at for job in added), reverse=True)
    assert [job.id for job in await queue.jobs.page("", operations=["upscale"], max_jobs=9)] == [added[2].id]
    await queue.worker().claim(1)
    assert len(await queue.jobs.page("", states=["running"], max_jobs=9)) == 1
    assert len(await queue.jobs.page("", states=["running", "queued"], max_jobs=9)) == 7


async def test_the_place_of_a_job_is_what_is_due_before_it(queue: Queue) -> None:
    last = await queue.add(priority="batch")
    for index in range(3):
        await queue.add(work=10.0 * index)
        queue.clock.now += 1
    [middle] = [one for one in await queue.jobs.page("", max_jobs=9) if one.work == 10.0]
    assert await queue.jobs.ahead_of([last, middle]) == {last.id: (3, 30.0), middle.id: (1, 0.0)}
    [first] = await queue.worker().claim(1)
    assert await queue.jobs.ahead_of([last, first]) == {last.id: (2, 30.0 - first.work)}


async def test_the_speed_of_generations_leaves_out_the_time_in_which_none_ran(queue: Queue) -> None:
    assert await queue.jobs.work_per_s() is None
    worker = queue.worker()

    async def run(num: int, *, operation: str = "generate") -> None:
        """Run so many at the same time, for ten seconds."""
        for _ in range(num):
            await queue.add(work=50.0, operation=operation)
        claimed = await worker.claim(num)
        queue.clock.now += 10
        for job in claimed:
            await worker.succeed(job.id, {})

    await run(2)
    assert await queue.jobs.work_per_s() == pytest.approx(10.0)
    queue.clock.now += 100_000
    await run(1, operation="upscale")
    await run(4)
    assert await queue.jobs.work_per_s() == pytest.approx(300 / 20)


async def test_events_of_all_jobs_are_read_in_pages(queue: Queue) -> None:
    await queue.jobs.add([JOB] * 5)
    queue.clock.now += 1
    await queue.worker().claim(2)
    everything = await queue.jobs.events_since(1000.0)
    assert [event.state for event in everything] == ["queued"] * 5 + ["running"] * 2
    pages = [await queue.jobs.events_since(1000.0, max_events=3)]
    while pages[-1]:
        pages.append(await queue.jobs.events_since(1000.0, beyond=pages[-1][-1], max_events=3))
    assert [len(page) for page in pages] == [3, 3, 1, 0]
    assert [event for page in pages for event in page] == everything
    assert await queue.jobs.events_since(1000.5) == everything[5:]


async def test_old_jobs_are_purged_with_their_events(queue: Queue) -> None:
    old, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    await worker.succeed(old.id, {})
    queue.clock.now += 100
    new, waiting = await queue.add(), await queue.add(priority="batch")
    await worker.claim(1)
    await worker.succeed(new.id, {})
    assert await queue.jobs.purge(finished_before=1050.0) == 1
    assert await queue.jobs.get(old.id) is None
    assert await queue.jobs.events(old.id) == []
    assert [(await queue.now(job)).state for job in (new, waiting)] == ["succeeded", "queued"]


async def test_events_after_a_number_are_those_that_a_client_has_missed(queue: Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    seen = await queue.jobs.events(job.id)
    queue.clock.now += 3
    await worker.succeed(job.id, {})
    [missed] = await queue.jobs.events(job.id, after=seen[-1].number)
    assert (missed.number, missed.state, missed.at, missed.attempts) == (3, "succeeded", 1003.0, 1)


async def test_changes_wake_those_who_wait(queue: Queue, database_url: str) -> None:
    elsewhere = Database(database_url)
    changes = Changes(elsewhere)
    watching = asyncio.create_task(changes.watch())
    try:
        await changes.after(0, timeout_s=30)
        for _ in range(3):
            seen = changes.num_seen
            waiting = asyncio.create_task(changes.after(seen, timeout_s=30))
            await queue.add()
            await waiting
            assert changes.num_seen > seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await elsewhere.close()


async def test_the_migrations_make_the_tables_that_the_code_reads(queue: Queue) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with queue.database.writing() as connection:
        assert await connection.run_sync(differences) == []
    await queue.database.migrate()


@pytest.mark.parametrize(
    "url", ["jobs.db", "mysql://host/name", "sqlite://", "postgresql+psycopg://host/x", "sqlite:///"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="ATELIER_DATABASE_URL"):
        Database(url)
