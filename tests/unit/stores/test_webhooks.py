"""Webhooks in a database: when they are due, who has them, and how they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from atelier.core.errors import GenerationFailed
from atelier.core.jobs import Job, NewJob, WorkerId
from atelier.core.webhooks import NewWebhook, Webhook
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from tests.unit.stores.queues import Clock

_LEASE_S = 30.0
_WEBHOOK = NewWebhook(url="https://example.org/hook", base_url="http://server")
_JOB = NewJob(operation="generate", params={}, work=1.0, webhook=_WEBHOOK)


class _Queue:
    """A database with a clock that stands still."""

    def __init__(self, database: Database) -> None:
        self.clock = Clock()
        self.jobs = Jobs(database, clock=self.clock)
        self.webhooks = self.jobs.webhooks
        self.worker = Claims(database, WorkerId("one"), lease_s=_LEASE_S, clock=self.clock)

    async def add(self, new: NewJob = _JOB) -> Job:
        [job] = await self.jobs.add([new])
        return job

    async def end(self, num: int = 1) -> None:
        """Let queued jobs succeed."""
        for job in await self.worker.claim(num):
            await self.worker.succeed(job.id, {})

    async def claim(self) -> list[Webhook]:
        return await self.webhooks.claim(10, lease_s=_LEASE_S)

    async def now(self, job: Job) -> Webhook:
        found = await self.webhooks.get(job.id)
        assert found is not None
        return found


@pytest.fixture
def queue(database: Database) -> _Queue:
    return _Queue(database)


async def test_a_webhook_is_stored_with_its_job(queue: _Queue) -> None:
    job, other = await queue.add(), await queue.add(replace(_JOB, webhook=None))
    assert (job.has_webhook, other.has_webhook) == (True, False)
    assert await queue.now(job) == Webhook(
        job_id=job.id,
        url="https://example.org/hook",
        base_url="http://server",
        state="pending",
        attempts=0,
        last_error=None,
    )
    assert await queue.webhooks.get(other.id) is None


async def test_a_webhook_is_due_when_its_job_has_ended(queue: _Queue) -> None:
    job = await queue.add()
    await queue.add(replace(_JOB, webhook=None))
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], None)
    [running, other] = await queue.worker.claim(2)
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], None)
    await queue.worker.give_back(running.id)
    assert await queue.claim() == []
    await queue.end(2)
    await queue.worker.succeed(other.id, {})
    assert await queue.webhooks.due_in_s() == 0
    assert await queue.claim() == [replace(await queue.now(job), attempts=1)]


async def test_webhooks_are_due_however_their_jobs_end(queue: _Queue) -> None:
    failed, cancelled, stopped = await queue.add(), await queue.add(), await queue.add()
    late = await queue.add(replace(_JOB, deadline_s=0.5, delay_s=60.0))
    await queue.jobs.cancel(cancelled.id)
    await queue.worker.claim(3)
    await queue.worker.fail(failed.id, GenerationFailed())
    await queue.jobs.cancel(stopped.id)
    assert {one.job_id for one in await queue.claim()} == {failed.id, cancelled.id}
    await queue.worker.cancelled(stopped.id)
    assert {one.job_id for one in await queue.claim()} == {stopped.id}
    queue.clock.now += 1
    await queue.worker.expire()
    assert {one.job_id for one in await queue.claim()} == {late.id}


async def test_a_claimed_webhook_comes_back_when_its_lease_has_ended(queue: _Queue) -> None:
    job = await queue.add()
    await queue.end()
    [first] = await queue.claim()
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], _LEASE_S)
    queue.clock.now += _LEASE_S
    [second] = await queue.claim()
    assert (second.job_id, second.attempts) == (job.id, 2)
    assert not await queue.webhooks.delivered(first), "a late answer to the first attempt"
    assert not await queue.webhooks.failed(first, "late", retry_s=None)
    assert (await queue.now(job)).state == "pending"
    assert await queue.webhooks.delivered(second)


async def test_a_delivered_webhook_is_never_due_again(queue: _Queue) -> None:
    job = await queue.add()
    await queue.end()
    [claimed] = await queue.claim()
    assert await queue.webhooks.failed(claimed, "answered with status 500", retry_s=0.0)
    [claimed] = await queue.claim()
    assert await queue.webhooks.delivered(claimed)
    assert not await queue.webhooks.failed(claimed, "late", retry_s=1.0)
    queue.clock.now += 1e6
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], None)
    assert await queue.now(job) == replace(claimed, state="delivered", last_error=None)


async def test_a_failed_webhook_waits_for_its_next_attempt(queue: _Queue) -> None:
    job = await queue.add()
    await queue.end()
    [claimed] = await queue.claim()
    assert await queue.webhooks.failed(claimed, "answered with status 500", retry_s=5.0)
    assert await queue.now(job) == replace(claimed, last_error="answered with status 500")
    queue.clock.now += 4
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], 1.0)
    queue.clock.now += 1
    [again] = await queue.claim()
    assert again.attempts == 2
    assert await queue.webhooks.failed(again, "cannot connect", retry_s=None)
    queue.clock.now += 1e6
    assert (await queue.claim(), await queue.webhooks.due_in_s()) == ([], None)
    assert await queue.now(job) == replace(again, state="given_up", last_error="cannot connect")


async def test_a_job_that_is_handed_in_again_has_one_webhook(queue: _Queue) -> None:
    keyed = replace(_JOB, idempotency_key="order-7")
    first = await queue.add(keyed)
    assert (await queue.add(keyed)).id == first.id
    await queue.end()
    assert len(await queue.claim()) == 1


async def test_webhooks_are_deleted_with_their_jobs(queue: _Queue) -> None:
    job = await queue.add()
    await queue.end()
    assert await queue.jobs.purge(finished_before=2000.0) == 1
    assert await queue.webhooks.get(job.id) is None
    assert await queue.claim() == []


async def test_of_many_claimers_each_webhook_has_one(queue: _Queue) -> None:
    await queue.jobs.add([_JOB] * 60)
    await queue.end(60)
    claimed = Counter[str]()

    async def claim_all() -> None:
        while webhooks := await queue.webhooks.claim(2, lease_s=_LEASE_S):
            claimed.update(one.job_id for one in webhooks)

    await asyncio.gather(*(claim_all() for _ in range(6)))
    assert len(claimed) == 60
    assert set(claimed.values()) == {1}
