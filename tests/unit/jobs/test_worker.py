"""A worker with jobs whose work the test controls, on SQLite."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import InvalidParameter, JobsUnavailable, ReplicaLost
from atelier.core.jobs import Job, JobId, JobState, Json, NewJob, Progress, WorkerId
from atelier.jobs.service import JobService
from atelier.jobs.worker import Worker
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from tests.postgres import find_programs, postgres

_JOB = NewJob(operation="generate", params={}, work=1.0)
_WAIT_S = 30.0


class _Work:
    """Work that lasts until the test lets it end, with what it is to return or raise."""

    def __init__(self) -> None:
        self.begun: list[JobId] = []
        self.may_end = asyncio.Event()
        self.outcome: Json | Exception = {"done": True}
        self.report: Callable[[Progress], None] | None = None
        self.stopped, self.are_two = asyncio.Event(), asyncio.Event()
        self.at_once = self.num_at_once = 0

    async def __call__(self, job: Job, report: Callable[[Progress], None]) -> Json:
        self.begun.append(job.id)
        self.report = report
        self.at_once += 1
        self.num_at_once = max(self.num_at_once, self.at_once)
        if self.at_once == 2:
            self.are_two.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise
        finally:
            self.at_once -= 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class _Queue:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = Jobs(database)
        self.changes = Changes(database)
        self.work = _Work()

    async def add(self, num: int = 1, **fields: Any) -> list[Job]:
        return await self.jobs.add([replace(_JOB, **fields)] * num)

    @asynccontextmanager
    async def working(self, name: str = "one", *, max_running: int = 4) -> AsyncIterator[None]:
        """Run a worker for the time of the context."""
        claims = Claims(self.database, WorkerId(name), lease_s=15.0)
        async with _running(Worker(claims, self.changes, self.work, max_running=max_running).run()):
            yield

    async def until(self, job: Job, is_met: Callable[[Job], bool]) -> Job:
        async with asyncio.timeout(_WAIT_S):
            while True:
                seen, found = self.changes.num_seen, await self.jobs.get(job.id)
                if found is not None and is_met(found):
                    return found
                await self.changes.after(seen, timeout_s=_WAIT_S)

    async def until_in(self, job: Job, state: JobState) -> Job:
        return await self.until(job, lambda found: found.state == state)


def _has_reached(progress: Progress, job: Job) -> bool:
    return job.progress == progress


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[_Queue]:
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    await database.migrate()
    queue = _Queue(database)
    async with _running(queue.changes.watch()):
        yield queue
    await database.close()


async def test_a_worker_does_each_job_once_and_only_so_many_at_a_time(queue: _Queue) -> None:
    jobs = await queue.add(7)
    async with queue.working(max_running=2):
        await asyncio.wait_for(queue.work.are_two.wait(), _WAIT_S)
        [latest] = [job for job in jobs if job.id == queue.work.begun[-1]]
        for step in (1, 2):  # The worker has looked for jobs again when it has stored the second one.
            progress = Progress(step=step, total=2, elapsed_s=1.0)
            assert queue.work.report is not None
            queue.work.report(progress)
            await queue.until(latest, partial(_has_reached, progress))
        queue.work.may_end.set()
        for job in jobs:
            done = await queue.until_in(job, "succeeded")
            assert (done.result, done.attempts) == ({"done": True}, 1)
    assert sorted(queue.work.begun) == sorted(job.id for job in jobs)
    assert queue.work.num_at_once == 2


async def test_a_worker_that_waits_is_woken_by_a_new_job(queue: _Queue) -> None:
    queue.work.may_end.set()
    async with queue.working():
        for _ in range(3):
            [job] = await queue.add()
            await queue.until_in(job, "succeeded")


async def test_progress_is_stored_while_a_job_runs_and_stays_when_it_has_ended(queue: _Queue) -> None:
    [job] = await queue.add()
    async with queue.working():
        await queue.until_in(job, "running")
        progress = Progress(step=7, total=20, elapsed_s=1.5)
        assert queue.work.report is not None
        queue.work.report(progress)
        await queue.until(job, lambda found: found.progress == progress)
        queue.work.may_end.set()
        assert (await queue.until_in(job, "succeeded")).progress == progress


async def test_a_cancelled_job_stops(queue: _Queue) -> None:
    [job] = await queue.add()
    async with queue.working():
        await queue.until_in(job, "running")
        await queue.jobs.cancel(job.id)
        await queue.until_in(job, "cancelled")
    assert queue.work.stopped.is_set()


async def test_a_job_that_another_worker_has_is_left_to_it(queue: _Queue) -> None:
    [job] = await queue.add()
    async with queue.working("one", max_running=1):
        await queue.until_in(job, "running")
        # The first worker's lease is taken from it, as if it had been frozen for too long.
        late = Claims(queue.database, WorkerId("two"), lease_s=15.0, clock=_in(60.0))
        await late.expire()
        assert [one.id for one in await late.claim(1)] == [job.id]
        await asyncio.wait_for(queue.work.stopped.wait(), _WAIT_S)
    found = await queue.until_in(job, "running")
    assert found.attempts == 2
    assert await late.succeed(job.id, {})


async def test_a_worker_that_is_stopped_gives_its_jobs_back(queue: _Queue) -> None:
    [job] = await queue.add()
    async with queue.working("one"):
        await queue.until_in(job, "running")
    back = await queue.until_in(job, "queued")
    assert (back.deaths, back.is_cancel_requested) == (0, False)
    assert queue.work.stopped.is_set()
    queue.work.may_end.set()
    async with queue.working("two"):
        assert (await queue.until_in(job, "succeeded")).attempts == 2


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (InvalidParameter("size: too large", param="size"), "invalid_value"),
        (ZeroDivisionError(), "internal_error"),
        (TimeoutError(), "internal_error"),
    ],
)
async def test_an_error_that_does_not_pass_ends_a_job(queue: _Queue, raised: Exception, code: str) -> None:
    queue.work.outcome = raised
    queue.work.may_end.set()
    [job] = await queue.add()
    async with queue.working():
        failed = await queue.until_in(job, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.attempts) == (code, 1)


async def test_an_error_that_does_not_pass_in_five_attempts_ends_a_job(queue: _Queue) -> None:
    queue.work.outcome = ReplicaLost()
    queue.work.may_end.set()
    [job] = await queue.add()
    before = Claims(queue.database, WorkerId("before"), lease_s=15.0)
    for _ in range(4):
        await before.claim(1)
        await before.give_back(job.id)
    async with queue.working():
        failed = await queue.until_in(job, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.attempts) == ("replica_lost", 5)


async def test_an_error_that_may_pass_gives_a_job_back_for_later(queue: _Queue) -> None:
    queue.work.outcome = ReplicaLost()
    queue.work.may_end.set()
    [job] = await queue.add()
    async with queue.working():
        await queue.until(job, lambda found: found.attempts == 1 and found.state == "queued")
        soon = Claims(queue.database, WorkerId("two"), lease_s=15.0)
        assert await soon.claim(1) == []
        later = Claims(queue.database, WorkerId("two"), lease_s=15.0, clock=_in(ReplicaLost.retry_after_s + 1))
        assert [one.id for one in await later.claim(1)] == [job.id]


@pytest.mark.slow
@pytest.mark.skipif(find_programs() is None, reason="initdb is not installed")
async def test_a_database_that_is_away_for_a_while_costs_no_job_and_no_wait_for_it(tmp_path: Path) -> None:
    programs = find_programs()
    assert programs is not None
    with postgres(programs) as server:
        database = Database(server.new_database("jobs"))
        await database.migrate()
        queue = _Queue(database)
        async with _running(queue.changes.watch()), queue.working():
            jobs = await queue.add(3)
            for job in jobs:
                await queue.until_in(job, "running")
            server.kill()
            with pytest.raises(JobsUnavailable):
                await queue.add()
            service = JobService(queue.jobs, queue.changes, BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1)))
            waiting = asyncio.create_task(service.ended(jobs[0].id, timeout_s=_WAIT_S))
            queue.work.may_end.set()
            await asyncio.to_thread(server.start)
            for job in jobs:
                assert (await queue.until_in(job, "succeeded")).attempts == 1
            assert (await waiting).state == "succeeded"
            [job] = await queue.add()
            await queue.until_in(job, "succeeded")
        await database.close()


async def test_a_job_ends_at_its_deadline(queue: _Queue) -> None:
    [job] = await queue.add(deadline_s=0.5)
    async with queue.working():
        failed = await queue.until_in(job, "failed")
    assert failed.error is not None
    assert failed.error.code == "deadline_exceeded"
    assert queue.work.stopped.is_set()


def _in(seconds: float) -> Callable[[], float]:
    """A clock that is ahead."""
    return lambda: time.time() + seconds
