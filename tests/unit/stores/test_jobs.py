"""Jobs in a database: in which order they are claimed, who has them, and what is known of them afterwards."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from atelier.core.errors import GenerationFailed, IdempotencyConflict, InvalidParameter
from atelier.core.jobs import Job, JobId, NewJob, Progress, WorkerId
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from atelier.stores.tables import metadata

_LEASE_S, _WAIT_S = 15.0, 30.0
_JOB = NewJob(operation="generate", params={"prompt": "a star", "seed": 3}, work=100.0)


@dataclass
class _Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class _Queue:
    """A database with a clock that stands still, and its workers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = _Clock()
        self.jobs = Jobs(database, clock=self.clock)

    def worker(self, name: str = "one") -> Claims:
        return Claims(self.database, WorkerId(name), lease_s=_LEASE_S, clock=self.clock)

    async def add(self, **fields: Any) -> Job:
        [job] = await self.jobs.add([replace(_JOB, **fields)])
        return job

    async def now(self, job: Job) -> Job:
        found = await self.jobs.get(job.id)
        assert found is not None
        return found

    async def states(self, job: Job) -> list[str]:
        return [event.state for event in await self.jobs.events(job.id)]


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[_Queue]:
    database = Database(database_url)
    await database.migrate()
    yield _Queue(database)
    await database.close()


async def test_jobs_are_counted_by_state(queue: _Queue) -> None:
    none = {"queued": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert await queue.jobs.num_by_state() == none
    for _ in range(4):
        job = await queue.add(owner="ann")
    await queue.jobs.cancel(job.id)
    await queue.worker().claim(1)
    assert await queue.jobs.num_by_state() == none | {"queued": 2, "running": 1, "cancelled": 1}


async def test_a_worker_that_finds_nothing_wakes_nobody(queue: _Queue) -> None:
    changes = Changes(queue.database)
    watching = asyncio.create_task(changes.watch())
    await changes.after(0, timeout_s=_WAIT_S)
    seen = changes.num_seen
    await queue.add(delay_s=10)
    await changes.after(seen, timeout_s=_WAIT_S)
    seen = changes.num_seen
    for _ in range(3):
        assert await queue.worker().claim(5) == []
    await queue.add()
    await changes.after(seen, timeout_s=_WAIT_S)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert changes.num_seen == seen + 1


async def test_a_worker_that_has_lost_a_job_tells_nothing_of_it(queue: _Queue) -> None:
    job, late = await queue.add(), queue.worker("late")
    await late.claim(1)
    queue.clock.now += _LEASE_S + 1
    await queue.worker("other").expire()
    await queue.worker("other").claim(1)
    held = await late.keep({job.id: Progress(step=3, total=4, elapsed_s=1.0)})
    assert held.kept == frozenset()
    assert (await queue.now(job)).progress is None


async def test_a_job_is_stored_as_it_was_handed_in(queue: _Queue) -> None:
    job = await queue.add(owner="ann", priority="batch", rank=5, deadline_s=9.5, operation="upscale")
    assert (job.params, job.work, job.owner, job.operation) == (_JOB.params, 100.0, "ann", "upscale")
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


async def test_jobs_are_claimed_in_the_order_in_which_they_are_due(queue: _Queue) -> None:
    batch, standard = await queue.add(priority="batch"), await queue.add()
    ranked, urgent = await queue.add(rank=2), await queue.add(priority="batch", deadline_s=40.0)
    later, interactive = await queue.add(delay_s=600.0), await queue.add(priority="interactive")
    worker, claimed = queue.worker(), list[JobId]()
    claimed += [job.id for job in await worker.claim(4)]
    claimed += [job.id for job in await worker.claim(4)]
    assert claimed == [one.id for one in (ranked, interactive, urgent, standard, batch)]
    queue.clock.now += 600
    assert [job.id for job in await worker.claim(4)] == [later.id]


async def test_a_batch_job_waits_for_an_hour_at_most(queue: _Queue) -> None:
    batch, worker = await queue.add(priority="batch"), queue.worker()
    while True:
        await queue.add(priority="interactive")
        [job] = await worker.claim(1)
        if job.id == batch.id:
            break
        queue.clock.now += 100
    assert queue.clock.now - batch.created_at <= 3600


async def test_a_claimed_job_is_its_workers_alone(queue: _Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    [claimed] = await one.claim(5)
    assert (claimed.state, claimed.attempts, claimed.started_at) == ("running", 1, 1000.0)
    assert await two.claim(5) == []
    assert not await two.succeed(job.id, {})
    assert not await two.fail(job.id, GenerationFailed())
    assert not await two.give_back(job.id)
    assert not await two.cancelled(job.id)
    assert (await two.keep({job.id: None})).kept == set()
    queue.clock.now += 5
    assert await one.succeed(job.id, {"images": ["a.png"]})
    done = await queue.now(job)
    assert (done.state, done.result, done.finished_at, done.error) == (
        "succeeded",
        {"images": ["a.png"]},
        1005.0,
        None,
    )
    assert not await one.fail(job.id, GenerationFailed())
    assert await queue.states(job) == ["queued", "running", "succeeded"]


async def test_a_failed_job_keeps_the_fields_of_its_error(queue: _Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    await worker.fail(job.id, InvalidParameter("size: too large", param="size"))
    error = (await queue.now(job)).error
    assert error is not None
    assert (error.message, error.type, error.code, error.param) == (
        "size: too large",
        "invalid_request_error",
        "invalid_value",
        "size",
    )


async def test_signs_of_life_extend_a_lease(queue: _Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    await one.claim(1)
    progress = Progress(step=3, total=20, elapsed_s=1.5)
    for _ in range(3):
        queue.clock.now += _LEASE_S - 1
        await two.expire()
        assert (await one.keep({job.id: progress})).kept == {job.id}
    assert (await queue.now(job)).progress == progress
    assert await two.claim(1) == []


async def test_the_jobs_of_a_dead_worker_go_on_and_after_two_deaths_fail(queue: _Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    await one.claim(1)
    queue.clock.now += _LEASE_S + 1
    await two.expire()
    assert ((await queue.now(job)).state, (await queue.now(job)).deaths) == ("queued", 1)
    [again] = await two.claim(1)
    assert (again.id, again.attempts, again.started_at) == (job.id, 2, 1000.0)
    assert not await one.succeed(job.id, {}), "a late answer of the first worker"
    queue.clock.now += _LEASE_S + 1
    await one.expire()
    poisoned = await queue.now(job)
    assert poisoned.error is not None
    assert (poisoned.state, poisoned.error.code, poisoned.deaths) == ("failed", "poison_request", 2)
    assert await queue.states(job) == ["queued", "running", "queued", "running", "failed"]


async def test_a_job_that_is_given_back_costs_no_death(queue: _Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    for attempt in range(1, 5):
        [claimed] = await worker.claim(1)
        assert (claimed.attempts, claimed.deaths) == (attempt, 0)
        assert await worker.give_back(job.id, delay_s=8.0)
        assert await worker.claim(1) == []
        queue.clock.now += 8


async def test_a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_worker(queue: _Queue) -> None:
    waiting, worker = await queue.add(), queue.worker()
    cancelled = await queue.jobs.cancel(waiting.id)
    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_at) == ("cancelled", 1000.0)
    running = await queue.add()
    [claimed] = await worker.claim(5)
    assert claimed.id == running.id
    asked = await queue.jobs.cancel(running.id)
    assert asked is not None
    assert (asked.state, asked.is_cancel_requested) == ("running", True)
    assert (await worker.look()).to_cancel == {running.id}
    assert (await queue.worker("two").look()).to_cancel == set()
    assert (await worker.keep({running.id: None})).to_cancel == {running.id}
    assert await worker.cancelled(running.id)
    assert await queue.states(running) == ["queued", "running", "cancelled"]
    assert await queue.jobs.cancel("job_none") is None


async def test_a_job_that_is_to_be_cancelled_does_not_outlive_its_worker(queue: _Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    await queue.jobs.cancel(job.id)
    queue.clock.now += _LEASE_S + 1
    await queue.worker("two").expire()
    assert (await queue.now(job)).state == "cancelled"


async def test_a_job_whose_deadline_passes_in_the_queue_fails(queue: _Queue) -> None:
    job, other = await queue.add(deadline_s=30.0), await queue.add()
    queue.clock.now += 31
    await queue.worker().expire()
    late = await queue.now(job)
    assert late.error is not None
    assert (late.state, late.error.code) == ("failed", "deadline_exceeded")
    assert (await queue.now(other)).state == "queued"


async def test_a_key_returns_the_job_that_was_first_handed_in_with_it(queue: _Queue) -> None:
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


async def test_jobs_are_added_together_or_not_at_all(queue: _Queue) -> None:
    await queue.add(idempotency_key="order-7", fingerprint="a")
    several = [_JOB, replace(_JOB, idempotency_key="order-7", fingerprint="b")]
    with pytest.raises(IdempotencyConflict):
        await queue.jobs.add(several)
    assert len(await queue.jobs.page("", max_jobs=10)) == 1


async def test_pages_of_jobs_have_each_once_and_the_latest_first(queue: _Queue) -> None:
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


async def test_the_place_of_a_job_is_what_is_due_before_it(queue: _Queue) -> None:
    last = await queue.add(priority="batch")
    for index in range(3):
        await queue.add(work=10.0 * index)
    assert await queue.jobs.ahead_of(last) == (3, 30.0)
    [first] = await queue.worker().claim(1)
    assert await queue.jobs.ahead_of(last) == (2, 30.0 - first.work)


async def test_the_speed_of_generations_leaves_out_the_time_in_which_none_ran(queue: _Queue) -> None:
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


async def test_old_jobs_are_purged_with_their_events(queue: _Queue) -> None:
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


async def test_events_after_a_number_are_those_that_a_client_has_missed(queue: _Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    seen = await queue.jobs.events(job.id)
    queue.clock.now += 3
    await worker.succeed(job.id, {})
    [missed] = await queue.jobs.events(job.id, after=seen[-1].number)
    assert (missed.number, missed.state, missed.at, missed.attempts) == (3, "succeeded", 1003.0, 1)


async def test_of_many_claimers_each_job_has_one(queue: _Queue) -> None:
    await queue.jobs.add([_JOB] * 200)
    done = Counter[JobId]()

    async def work(name: str) -> None:
        worker = queue.worker(name)
        while claimed := await worker.claim(3):
            for job in claimed:
                assert await worker.succeed(job.id, {})
                done[job.id] += 1

    await asyncio.gather(*(work(str(index)) for index in range(8)))
    assert len(done) == 200
    assert set(done.values()) == {1}


async def test_changes_wake_those_who_wait(queue: _Queue, database_url: str) -> None:
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


async def test_the_migrations_make_the_tables_that_the_code_reads(queue: _Queue) -> None:
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
