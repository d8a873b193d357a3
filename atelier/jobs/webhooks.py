"""Delivers the webhooks of jobs that have ended, several at once, again and again until they are accepted.

Any number of processes may do it for the same database. A message may arrive more than once, for example if a process
dies after its receiver has accepted it; the `webhook-id` is then the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from atelier.core.errors import JobsUnavailable
from atelier.core.jobs import Job, Json
from atelier.core.webhooks import Webhook
from atelier.jobs.sending import ATTEMPT_S, Failure
from atelier.jobs.worker import repeated
from atelier.stores.changes import Changes
from atelier.stores.jobs import Jobs

logger = logging.getLogger(__name__)

#: Seconds between one attempt and the next. There is no attempt after the last of them.
DELAYS_S = (5.0, 30.0, 300.0, 1800.0, 7200.0)
#: Seconds after which an attempt of a process that has died is repeated.
_LEASE_S = 3 * ATTEMPT_S
_MAX_AT_ONCE = 16
#: Least and greatest time between two looks at the database without news from it, in seconds.
_MIN_WAIT_S, _MAX_WAIT_S = 0.1, 60.0

#: Sends a body to a URL, with the id of the message. Returns None if it was accepted.
Send = Callable[[str, str, bytes], Awaitable[Failure | None]]
#: Returns the fields of a job that has ended, with URLs that begin with an address of this server.
Describe = Callable[[Job, str], Json]


class Deliverer:
    """Delivers the webhooks of a database."""

    def __init__(
        self, jobs: Jobs, changes: Changes, send: Send, describe: Describe, *, delays_s: Sequence[float] = DELAYS_S
    ) -> None:
        self._jobs = jobs
        self._changes = changes
        self._send = send
        self._describe = describe
        self._delays_s = delays_s
        self._running: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Deliver until cancelled. Attempts that are cut off then are repeated when their lease has ended."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                seen = self._changes.num_seen
                try:
                    wait_s = await self._begin(tasks)
                except JobsUnavailable as error:
                    logger.warning("cannot reach the database of webhooks: %s", error.__cause__)
                    wait_s = 1.0
                if len(self._running) < _MAX_AT_ONCE:
                    await self._changes.after(seen, timeout_s=wait_s)
                else:
                    await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)

    async def _begin(self, tasks: asyncio.TaskGroup) -> float:
        """Begin attempts that are due, as far as there is room. Returns the seconds until the next look."""
        if await self._jobs.webhooks.due_in_s() == 0:
            for webhook in await self._jobs.webhooks.claim(_MAX_AT_ONCE - len(self._running), lease_s=_LEASE_S):
                task = tasks.create_task(self._attempt(webhook))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        due_in_s = await self._jobs.webhooks.due_in_s()
        return _MAX_WAIT_S if due_in_s is None else min(max(due_in_s, _MIN_WAIT_S), _MAX_WAIT_S)

    async def _attempt(self, webhook: Webhook) -> None:
        """Try to deliver a claimed webhook, and store the outcome."""
        job = await repeated(lambda: self._jobs.get(webhook.job_id))
        if job is None:
            return
        failure = await self._outcome(job, webhook)
        if failure is None:
            await repeated(lambda: self._jobs.webhooks.delivered(webhook))
            return
        is_last = failure.is_final or webhook.attempts > len(self._delays_s)
        retry_s = None if is_last else self._delays_s[webhook.attempts - 1]
        logger.info("webhook of job %s failed: %s; next attempt in %s s", job.id, failure.reason, retry_s)
        await repeated(lambda: self._jobs.webhooks.failed(webhook, failure.reason, retry_s=retry_s))

    async def _outcome(self, job: Job, webhook: Webhook) -> Failure | None:
        try:
            message = _message(job, self._describe(job, webhook.base_url))
            return await self._send(webhook.url, job.id, message)
        except Exception:
            logger.exception("webhook of job %s failed unexpectedly", job.id)
            return Failure("internal error")


def _message(job: Job, fields: Json) -> bytes:
    """Return the body, which is the same in every attempt."""
    assert job.finished_at is not None, "the webhook of a job is due when it has ended"
    ended_at = datetime.fromtimestamp(job.finished_at, UTC).isoformat(timespec="milliseconds")
    message = {"type": f"job.{job.state}", "timestamp": ended_at.replace("+00:00", "Z"), "data": fields}
    return json.dumps(message, separators=(",", ":")).encode()
