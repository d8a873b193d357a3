"""A worker: claims jobs from the database, works on several of them at once, and extends its leases meanwhile.

It knows neither what the work is nor how it is stored. An unreachable database stops nothing that is in progress: the
worker goes on, and ends its jobs when the database is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from atelier.core.errors import AtelierError, DeadlineExceeded, JobsUnavailable
from atelier.core.jobs import Job, JobId, Json, Progress
from atelier.stores.changes import Changes
from atelier.stores.claims import Claims

logger = logging.getLogger(__name__)

#: Seconds that a worker has a job after its last sign of life, and between two of these, which carry the progress.
LEASE_S, _ALIVE_S = 10.0, 0.5
#: Least time between two looks at the queue, in seconds.
_GAP_S = 0.01
#: Number of times that a job is tried if its errors may pass, and seconds before the second one; doubled each time.
_MAX_ATTEMPTS, _DELAY_S = 5, 2.0
#: Seconds before an unreachable database is tried again.
_RETRY_S = 1.0

#: Does the work of a job, telling how far it is, and returns its outcome.
Perform = Callable[[Job, Callable[[Progress], None]], Awaitable[Json]]

T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    """A job that this worker works on."""

    task: asyncio.Task[None]
    progress: Progress | None = None
    #: Why its work was stopped from outside.
    stopped: Literal["cancelled", "lost", "worker stops"] | None = None
    #: Whether its work has ended and its outcome is being stored.
    is_ending: bool = False

    def stop(self, why: Literal["cancelled", "lost", "worker stops"]) -> None:
        if self.stopped is None and not self.is_ending:
            self.stopped = why
            self.task.cancel()


class Worker:
    """Works on the jobs of a database."""

    def __init__(self, claims: Claims, changes: Changes, perform: Perform, *, max_running: int) -> None:
        self._claims = claims
        self._changes = changes
        self._perform = perform
        #: Number of jobs to work on at a time. It can be changed at any time.
        self.max_running = max_running
        self._running: dict[JobId, _Running] = {}
        self._alive_at = self._turned_at = 0.0
        #: Other workers' leases end for this one only after it, too, has reached the database for so long.
        self._reached_since = time.monotonic()

    async def run(self) -> None:
        """Work until cancelled, then give back what is in progress."""
        try:
            while True:
                seen = self._changes.num_seen
                try:
                    await self._turn()
                except JobsUnavailable as error:
                    logger.warning("cannot reach the database of jobs: %s", error.__cause__)
                    self._reached_since = time.monotonic() + _RETRY_S
                    await asyncio.sleep(_RETRY_S)
                else:
                    await self._changes.after(seen, timeout_s=_ALIVE_S)
                    await asyncio.sleep(_GAP_S - (time.monotonic() - self._turned_at))
        finally:
            for job in self._running.values():
                job.stop("worker stops")
            await asyncio.gather(*(job.task for job in self._running.values()))

    async def _turn(self) -> None:
        """Give a sign of life if it is time, stop what is to be stopped, and claim what there is room for."""
        self._turned_at = time.monotonic()
        if self._turned_at - self._alive_at >= _ALIVE_S:
            await self._give_sign_of_life()
        news, room = await self._claims.news(), self.max_running - len(self._running)
        for job_id in news.to_cancel & self._running.keys():
            self._running[job_id].stop("cancelled")
        for job in await self._claims.claim(room) if news.is_any_ready and room > 0 else []:
            self._running[job.id] = _Running(asyncio.create_task(self._work(job)))

    async def _give_sign_of_life(self) -> None:
        self._alive_at = time.monotonic()
        if self._running:
            progress = {job_id: job.progress for job_id, job in self._running.items()}
            kept = await self._claims.keep(progress)
            for job_id in (progress.keys() - kept) & self._running.keys():
                self._running[job_id].stop("lost")
        if self._alive_at - self._reached_since >= LEASE_S:
            await self._claims.expire()

    async def _work(self, job: Job) -> None:
        """Work on a job and end it."""
        try:
            await self._end(job, await self._outcome(job))
        finally:
            del self._running[job.id]

    async def _outcome(self, job: Job) -> Json | AtelierError | None:
        """Return the outcome of a job, its error, or None if it was stopped from outside."""
        deadline = asyncio.timeout(None if job.deadline_at is None else max(job.deadline_at - time.time(), 0.0))
        try:
            async with deadline:
                return await self._perform(job, partial(self._report, job.id))
        except asyncio.CancelledError:
            return None
        except AtelierError as error:
            return error
        except Exception:
            if deadline.expired():
                return DeadlineExceeded(f"Not finished within the deadline of the job {job.id}.")
            logger.exception("job %s failed unexpectedly", job.id)
            return AtelierError()

    async def _end(self, job: Job, outcome: Json | AtelierError | None) -> None:
        running = self._running[job.id]
        running.is_ending = True
        if isinstance(outcome, AtelierError):
            if outcome.is_retryable and job.attempts < _MAX_ATTEMPTS:
                delay_s = max(_DELAY_S * 2 ** (job.attempts - 1), outcome.retry_after_s)
                await repeated(lambda: self._claims.give_back(job.id, delay_s=delay_s))
            else:
                await repeated(lambda: self._claims.fail(job.id, outcome))
        elif outcome is not None:
            await repeated(lambda: self._claims.succeed(job.id, outcome, running.progress))
        elif running.stopped == "cancelled":
            await repeated(lambda: self._claims.cancelled(job.id))
        elif running.stopped == "worker stops":
            try:
                await self._claims.give_back(job.id)
            except JobsUnavailable:
                logger.warning("cannot give back job %s, which goes on when its lease has ended", job.id)

    def _report(self, job_id: JobId, progress: Progress) -> None:
        self._running[job_id].progress = progress


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """Call until the database answers."""
    while True:
        try:
            return await call()
        except JobsUnavailable:
            await asyncio.sleep(_RETRY_S)
