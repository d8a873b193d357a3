"""Jobs in a database as workers see them: in which order they are claimed, who has them, and how they end."""

from __future__ import annotations

import asyncio
from collections import Counter

from atelier.core.errors import GenerationFailed, InvalidParameter
from atelier.core.jobs import JobId, Progress
from atelier.stores.changes import Changes
from tests.unit.stores.queues import JOB, LEASE_S, Queue

_WAIT_S = 30.0


async def test_a_worker_that_finds_nothing_wakes_nobody(queue: Queue) -> None:
    changes = Changes(queue.database)
    watching = asyncio.create_task(changes.watch())
    await changes.after(0, timeout_s=_WAIT_S)
    seen = changes.num_seen
    await queue.add(delay_s=10)
    await changes.after(seen, timeout_s=_WAIT_S)
    seen = changes.num_seen
    for _ in range(3):
        assert not (await queue.worker().news()).is_any_ready
    await queue.add()
    await changes.after(seen, timeout_s=_WAIT_S)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert changes.num_seen == seen + 1


async def test_a_worker_that_has_lost_a_job_tells_nothing_of_it(queue: Queue) -> None:
    job, late = await queue.add(), queue.worker("late")
    await late.claim(1)
    queue.clock.now += LEASE_S + 1
    await queue.worker("other").expire()
    await queue.worker("other").claim(1)
    assert await late.keep({job.id: Progress(step=3, total=4, elapsed_s=1.0)}) == frozenset()
    assert (await queue.now(job)).progress is None


async def test_jobs_are_claimed_in_the_order_in_which_they_are_due(queue: Queue) -> None:
    batch, standard = await queue.add(priority="batch"), await queue.add()
    ranked, urgent = await queue.add(rank=2), await queue.add(priority="batch", deadline_s=40.0)
    later, interactive = await queue.add(delay_s=600.0), await queue.add(priority="interactive")
    worker, claimed = queue.worker(), list[JobId]()
    claimed += [job.id for job in await worker.claim(4)]
    claimed += [job.id for job in await worker.claim(4)]
    assert claimed == [one.id for one in (ranked, interactive, urgent, standard, batch)]
    queue.clock.now += 600
    assert [job.id for job in await worker.claim(4)] == [later.id]


async def test_a_batch_job_waits_for_an_hour_at_most(queue: Queue) -> None:
    batch, worker = await queue.add(priority="batch"), queue.worker()
    while True:
        await queue.add(priority="interactive")
        [job] = await worker.claim(1)
        if job.id == batch.id:
            break
        queue.clock.now += 100
    assert queue.clock.now - batch.created_at <= 3600


async def test_a_claimed_job_is_its_workers_alone(queue: Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    [claimed] = await one.claim(5)
    assert (claimed.state, claimed.attempts, claimed.started_at) == ("running", 1, 1000.0)
    assert await two.claim(5) == []
    assert not await two.succeed(job.id, {})
    assert not await two.fail(job.id, GenerationFailed())
    assert not await two.give_back(job.id)
    assert not await two.cancelled(job.id)
    assert await two.keep({job.id: None}) == set()
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


async def test_a_failed_job_keeps_the_fields_of_its_error(queue: Queue) -> None:
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


async def test_signs_of_life_extend_a_lease(queue: Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    await one.claim(1)
    progress = Progress(step=3, total=20, elapsed_s=1.5)
    for _ in range(3):
        queue.clock.now += LEASE_S - 1
        await two.expire()
        assert await one.keep({job.id: progress}) == {job.id}
    assert (await queue.now(job)).progress == progress
    assert await two.claim(1) == []


async def test_the_jobs_of_a_dead_worker_go_on_and_after_two_deaths_fail(queue: Queue) -> None:
    job, one, two = await queue.add(), queue.worker("one"), queue.worker("two")
    await one.claim(1)
    queue.clock.now += LEASE_S + 1
    await two.expire()
    assert ((await queue.now(job)).state, (await queue.now(job)).deaths) == ("queued", 1)
    [again] = await two.claim(1)
    assert (again.id, again.attempts, again.started_at) == (job.id, 2, 1000.0)
    assert not await one.succeed(job.id, {}), "a late answer of the first worker"
    queue.clock.now += LEASE_S + 1
    await one.expire()
    poisoned = await queue.now(job)
    assert poisoned.error is not None
    assert (poisoned.state, poisoned.error.code, poisoned.deaths) == ("failed", "poison_request", 2)
    assert await queue.states(job) == ["queued", "running", "queued", "running", "failed"]


async def test_a_job_that_is_given_back_costs_no_death(queue: Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    for attempt in range(1, 5):
        [claimed] = await worker.claim(1)
        assert (claimed.attempts, claimed.deaths) == (attempt, 0)
        assert await worker.give_back(job.id, delay_s=8.0)
        assert await worker.claim(1) == []
        queue.clock.now += 8


async def test_a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_worker(queue: Queue) -> None:
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
    assert (await worker.news()).to_cancel == {running.id}
    assert (await queue.worker("two").news()).to_cancel == set()
    assert await worker.cancelled(running.id)
    assert await queue.states(running) == ["queued", "running", "cancelled"]
    assert await queue.jobs.cancel("job_none") is None


async def test_a_job_that_is_to_be_cancelled_does_not_outlive_its_worker(queue: Queue) -> None:
    job, worker = await queue.add(), queue.worker()
    await worker.claim(1)
    await queue.jobs.cancel(job.id)
    queue.clock.now += LEASE_S + 1
    await queue.worker("two").expire()
    assert (await queue.now(job)).state == "cancelled"


async def test_a_job_whose_deadline_passes_in_the_queue_fails(queue: Queue) -> None:
    job, other = await queue.add(deadline_s=30.0), await queue.add()
    queue.clock.now += 31
    await queue.worker().expire()
    late = await queue.now(job)
    assert late.error is not None
    assert (late.state, late.error.code) == ("failed", "deadline_exceeded")
    assert (await queue.now(other)).state == "queued"


async def test_of_many_claimers_each_job_has_one(queue: Queue) -> None:
    await queue.jobs.add([JOB] * 200)
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
