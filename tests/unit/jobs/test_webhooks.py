"""The delivery of webhooks: what is sent, how often, and what the client can see of it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from atelier.core.errors import GenerationFailed
from atelier.core.jobs import Job, Json, NewJob, WorkerId
from atelier.core.webhooks import NewWebhook, Webhook
from atelier.jobs.sending import Failure
from atelier.jobs.webhooks import DELAYS_S, Deliverer
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs

_WAIT_S = 30.0
_REFUSED = Failure("answered with status 500")


@dataclass
class _Clock:
    now: float = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


@dataclass
class _Receiver:
    """Keeps what is sent to it, and answers in turn as a test says; in the end it accepts all."""

    answers: list[Failure | None] = field(default_factory=list)
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    #: URLs at which an attempt hangs.
    hanging: Sequence[str] = ()

    async def send(self, url: str, message_id: str, body: bytes) -> Failure | None:
        self.sent.append((url, message_id, body))
        if url in self.hanging:
            await asyncio.Event().wait()
        return self.answers.pop(0) if self.answers else None


def _describe(job: Job, base_url: str) -> Json:
    return {"id": job.id, "state": job.state, "status_url": f"{base_url}/v1/jobs/{job.id}"}


class _Queue:
    """A database with jobs."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self.jobs = Jobs(database, clock=clock)
        self.changes = Changes(database)
        self.receiver = _Receiver()
        self.worker = Claims(database, WorkerId("one"), lease_s=15.0, clock=clock)

    async def add(self, url: str = "https://example.org/hook") -> Job:
        webhook = NewWebhook(url=url, base_url="http://server")
        [job] = await self.jobs.add([NewJob(operation="generate", params={}, work=1.0, webhook=webhook)])
        return job

    async def succeeded(self, url: str = "https://example.org/hook") -> Job:
        """Add a job that has ended."""
        job = await self.add(url)
        await self.worker.claim(1)
        await self.worker.succeed(job.id, {})
        return job

    @asynccontextmanager
    async def delivering(
        self, *, describe: Callable[[Job, str], Json] = _describe, delays_s: Sequence[float] = DELAYS_S
    ) -> AsyncIterator[None]:
        """Run a deliverer for the time of the context."""
        deliverer = Deliverer(self.jobs, self.changes, self.receiver.send, describe, delays_s=delays_s)
        task = asyncio.create_task(deliverer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, job: Job, is_met: Callable[[Webhook], bool]) -> Webhook:
        async with asyncio.timeout(_WAIT_S):
            while True:
                seen, webhook = self.changes.num_seen, await self.jobs.webhooks.get(job.id)
                assert webhook is not None
                if is_met(webhook):
                    return webhook
                await self.changes.after(seen, timeout_s=_WAIT_S)

    async def until_ended(self, job: Job) -> Webhook:
        return await self.until(job, lambda webhook: webhook.state != "pending")


@asynccontextmanager
async def _queue_in(url: str, clock: Callable[[], float]) -> AsyncIterator[_Queue]:
    database = Database(url)
    await database.migrate()
    queue = _Queue(database, clock)
    watching = asyncio.create_task(queue.changes.watch())
    yield queue
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await database.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
async def queue(url: str, clock: _Clock) -> AsyncIterator[_Queue]:
    async with _queue_in(url, clock) as queue:
        yield queue


async def test_a_job_is_sent_when_it_has_ended_and_not_before(queue: _Queue) -> None:
    waiting, ended = await queue.add(), await queue.add()
    async with queue.delivering():
        await queue.jobs.cancel(ended.id)
        webhook = await queue.until_ended(ended)
    assert (webhook.state, webhook.attempts, webhook.last_error) == ("delivered", 1, None)
    [(url, message_id, body)] = queue.receiver.sent
    assert (url, message_id) == ("https://example.org/hook", ended.id)
    assert json.loads(body) == {
        "type": "job.cancelled",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "data": {"id": ended.id, "state": "cancelled", "status_url": f"http://server/v1/jobs/{ended.id}"},
    }
    assert (await queue.until(waiting, lambda _: True)).attempts == 0


async def test_the_type_of_a_message_is_the_state_of_its_job(queue: _Queue) -> None:
    failed = await queue.add()
    await queue.worker.claim(1)
    await queue.worker.fail(failed.id, GenerationFailed())
    succeeded = await queue.succeeded()
    async with queue.delivering():
        for job in (failed, succeeded):
            await queue.until_ended(job)
    types = {message_id: json.loads(body)["type"] for _, message_id, body in queue.receiver.sent}
    assert types == {failed.id: "job.failed", succeeded.id: "job.succeeded"}


async def test_attempts_are_repeated_later_and_later_and_given_up(queue: _Queue, clock: _Clock) -> None:
    reasons, waits = [f"answered with status {status}" for status in range(500, 506)], []
    queue.receiver.answers = [Failure(reason) for reason in reasons]
    job = await queue.succeeded()
    for reason in reasons:
        async with queue.delivering():
            webhook = await queue.until(job, partial(_has_failed, reason))
        due_in_s = await queue.jobs.webhooks.due_in_s()
        if due_in_s is not None:
            waits.append(due_in_s)
            clock.now += due_in_s
    assert waits == [5, 30, 300, 1800, 7200]
    assert (webhook.state, webhook.attempts) == ("given_up", 6)
    assert len(queue.receiver.sent) == 6
    assert len(set(queue.receiver.sent)) == 1, "the same id and body in every attempt"
    found = await queue.jobs.get(job.id)
    assert found is not None
    assert (found.state, found.error) == ("succeeded", None)


def _has_failed(reason: str, webhook: Webhook) -> bool:
    return webhook.last_error == reason


async def test_the_next_attempt_comes_in_its_time_without_other_news(url: str) -> None:
    async with _queue_in(url, time.time) as queue:
        queue.receiver.answers = [_REFUSED, _REFUSED]
        job = await queue.succeeded()
        async with queue.delivering(delays_s=(0.0, 0.2)):
            webhook = await queue.until_ended(job)
    assert (webhook.state, webhook.attempts, webhook.last_error) == ("delivered", 3, None)


async def test_a_receiver_that_is_gone_gets_no_further_attempt(queue: _Queue) -> None:
    queue.receiver.answers = [Failure("answered with status 410", is_final=True)]
    job = await queue.succeeded()
    async with queue.delivering():
        webhook = await queue.until_ended(job)
    assert (webhook.state, webhook.attempts, webhook.last_error) == ("given_up", 1, "answered with status 410")


async def test_a_receiver_that_hangs_holds_no_other_one_up(queue: _Queue) -> None:
    queue.receiver.hanging = ["https://slow.example/"]
    for _ in range(3):
        await queue.succeeded("https://slow.example/")
    async with queue.delivering():
        assert (await queue.until_ended(await queue.succeeded())).state == "delivered"


async def test_an_attempt_that_is_cut_off_is_repeated(queue: _Queue, clock: _Clock) -> None:
    queue.receiver.hanging = ["https://example.org/hook"]
    job = await queue.succeeded()
    async with queue.delivering():
        await queue.until(job, lambda webhook: webhook.attempts == 1)
    queue.receiver.hanging = ()
    due_in_s = await queue.jobs.webhooks.due_in_s()
    assert due_in_s is not None
    clock.now += due_in_s
    async with queue.delivering():
        assert (await queue.until_ended(job)).attempts == 2


async def test_an_unexpected_error_stops_no_other_delivery(queue: _Queue, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = await queue.succeeded("https://broken.example/"), await queue.succeeded()

    def describe(job: Job, base_url: str) -> Json:
        if job.id == broken.id:
            raise ZeroDivisionError
        return _describe(job, base_url)

    with caplog.at_level(logging.CRITICAL):
        async with queue.delivering(describe=describe):
            await queue.until_ended(whole)
            webhook = await queue.until(broken, lambda one: one.last_error is not None)
    assert (webhook.state, webhook.last_error) == ("pending", "internal error")


async def test_two_deliverers_send_every_message_once(database_url: str, clock: _Clock) -> None:
    async with _queue_in(database_url, clock) as queue:
        jobs = [await queue.succeeded() for _ in range(40)]
        async with queue.delivering(), queue.delivering():
            for job in jobs:
                assert (await queue.until_ended(job)).attempts == 1
    assert Counter(message_id for _, message_id, _ in queue.receiver.sent) == Counter(job.id for job in jobs)
