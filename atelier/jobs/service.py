"""Jobs for those who hand them in: checked and planned at once, then done by a worker, and watched meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from atelier.core.errors import AtelierError, JobsUnavailable, NotFound, NotSupported, QueueFull
from atelier.core.jobs import Job, JobEvent, JobId, Json, NewJob, Operation, Progress
from atelier.core.params import AnnotateParams, DownloadParams, GenerateParams, Params, UpscaleParams
from atelier.core.webhooks import NewWebhook
from atelier.jobs.feed import Feed
from atelier.jobs.params import blobs_in, stored
from atelier.jobs.receivers import Receivers
from atelier.jobs.watching import OfJob, ended, watch, watch_all
from atelier.jobs.worker import repeated
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.jobs import Ahead, Jobs

logger = logging.getLogger(__name__)

_FULL_RETRY_AFTER_S = 60
_SPEED_AGE_S = 1.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a job that has not ended."""

    #: Number of queued jobs that are due before it; None if it runs.
    position: int | None
    #: Seconds until it ends; None if nothing is known yet.
    eta_s: float | None


class _Speed(NamedTuple):
    """The speed of the last jobs, and when it was measured."""

    work_per_s: float
    at_s: float


class Deleted(NamedTuple):
    """Numbers of jobs and of files that were deleted."""

    jobs: int
    files: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a client hands in as one job; see NewJob for the fields."""

    operation: Operation
    params: Params
    rank: int = 0
    delay_s: float = 0.0
    num_previews: int = 0
    idempotency_key: str | None = None
    fingerprint: str = ""
    batch: str | None = None
    cell: Json | None = None
    #: URL to which the job is posted when it has ended.
    webhook: str | None = None
    #: Where the client has sent the job, such as `[2].`.
    place: str = ""
    #: Opens a context in which errors name fields of the input as the client has sent them.
    naming: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(slots=True)
class JobService:
    """The jobs of one server. All methods raise JobsUnavailable."""

    jobs: Jobs
    changes: Changes
    #: The input images and the files of jobs.
    files: BlobStore
    #: Largest number of jobs that may wait.
    max_queued: int = 10_000
    #: Who may receive webhooks; None if this server sends none.
    receivers: Receivers | None = None
    feed: Feed = field(init=False)
    _speed: _Speed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.feed = Feed(self.jobs, self.changes)

    async def submit(self, pipeline: Pipeline, drafts: Sequence[Draft], *, base_url: str = "") -> list[Job]:
        """Check params as the pipeline would, store their images, and queue jobs, all or none.

        Seeds are drawn here, so that every attempt makes the same images. If the first draft's key was used before,
        the jobs are those that were handed in then. Addresses in webhooks begin with `base_url`.

        Raises what direct requests raise if one is rejected, QueueFull, IdempotencyConflict and StoreUnavailable.
        """
        first = drafts[0]
        if first.idempotency_key is not None:
            known = await self.jobs.with_key("", first.idempotency_key, first.fingerprint)
            if known is not None:
                return [known] if known.batch is None else await self.jobs.of_batch(known.batch)
        if await self.jobs.num_queued() + len(drafts) > self.max_queued:
            raise QueueFull(
                f"No more than {self.max_queued} jobs may wait; try again when some have been done.",
                retry_after_s=_FULL_RETRY_AFTER_S,
            )
        planned = []
        for draft in drafts:
            webhook = self._new_webhook(draft, base_url)
            with draft.naming():
                new, params = await _planned(pipeline, draft)
            planned.append((replace(new, webhook=webhook), params))
        return await self.jobs.add([replace(new, params=await stored(params, self.files)) for new, params in planned])

    def _new_webhook(self, draft: Draft, base_url: str) -> NewWebhook | None:
        """Return the webhook of a draft. Raises InvalidParameter, and NotSupported if this server sends none."""
        if draft.webhook is None:
            return None
        try:
            if self.receivers is None:
                raise NotSupported("webhook: this server sends none; set ATELIER_WEBHOOK_SECRET.", param="webhook")
            return NewWebhook(url=self.receivers.checked(draft.webhook), base_url=base_url)
        except AtelierError as error:
            error.param = f"{draft.place}{error.param}"
            raise

    async def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        return _found(await self.jobs.get(job_id), job_id)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, and return it as it is then. Raises NotFound."""
        return _found(await self.jobs.cancel(job_id), job_id)

    async def outlooks(self, jobs: Sequence[Job]) -> list[Outlook]:
        """Return what is expected of each job, from its progress or from the speed of the last ones."""
        queued = [job for job in jobs if job.state == "queued"]
        ahead = await self.jobs.ahead_of(queued) if queued else {}
        per_s = await self._work_per_s() if queued else None
        return [_outlook(job, ahead.get(job.id), per_s) for job in jobs]

    async def _work_per_s(self) -> float | None:
        """Return the speed of the last jobs, up to a second old."""
        now_s = time.monotonic()
        if self._speed is None or now_s - self._speed.at_s > _SPEED_AGE_S:
            per_s = await self.jobs.work_per_s()
            self._speed = None if per_s is None else _Speed(per_s, now_s)
        return None if self._speed is None else self._speed.work_per_s

    async def ended(self, job_id: JobId, *, timeout_s: float) -> Job:
        """Return a job when it has ended, or as it is after a time. Raises NotFound if it is deleted.

        A database that cannot be reached for a while is waited for, because the client does not know the job yet.
        """
        try:
            async with asyncio.timeout(timeout_s):
                job = await repeated(lambda: ended(self.jobs, self.feed, job_id))
        except TimeoutError:
            job = await self.jobs.get(job_id)
        return _found(job, job_id)

    def watch(self, job_id: str, *, after: int = 0) -> AsyncGenerator[JobEvent | Progress | None]:
        """Yield what happens to a job; see `watching.watch`."""
        return watch(self.jobs, self.feed, job_id, after=after)

    def watch_all(self, owner: str, *, since: float | None = None) -> AsyncGenerator[JobEvent | OfJob]:
        """Yield what happens to all jobs of an owner; see `watching.watch_all`."""
        return watch_all(self.jobs, self.feed, owner, since=since)

    async def delete_all(self, owner: str) -> Deleted:
        """Delete all jobs of an owner and their files; workers stop those that run. Raises StoreUnavailable."""
        jobs = await self.jobs.delete_of(owner)
        names = {name for job in jobs for name in (*job.files, *blobs_in(job.params))}
        await self.files.delete(sorted(names))
        return Deleted(len(jobs), len(names))

    async def purge(self, *, finished_before: float) -> None:
        """Delete jobs that had ended by then; if the database cannot be reached, the next call does it."""
        try:
            num_deleted = await self.jobs.purge(finished_before=finished_before)
        except JobsUnavailable as error:
            logger.warning("cannot delete old jobs: %s", error.__cause__)
            return
        if num_deleted:
            logger.info("deleted %d old jobs", num_deleted)


async def _planned(pipeline: Pipeline, draft: Draft) -> tuple[NewJob, Params]:
    """Return a job without its params, and its params with nothing open."""
    new = NewJob(
        operation=draft.operation,
        params={},
        work=0.0,
        rank=draft.rank,
        delay_s=draft.delay_s,
        idempotency_key=draft.idempotency_key,
        fingerprint=draft.fingerprint,
        num_previews=draft.num_previews,
        batch=draft.batch,
        cell=draft.cell,
    )
    match draft.params:
        case GenerateParams() as params:
            pipeline.check_previews(params.model, draft.num_previews)
            seeded = await pipeline.seeded(params)
            plan = await pipeline.plan(seeded)
            # The deadline is counted from now on, not from the time when a worker begins. Without a seed of the
            # client's own nobody asks for the images again.
            cache = "off" if seeded.seed == -1 else params.cache
            planned = plan.params.model_copy(update={"deadline_s": None, "cache": cache})
            work = float(plan.pixel_steps)
            return replace(new, work=work, priority=params.priority, deadline_s=params.deadline_s), planned
        case UpscaleParams() as params:
            upscaler, size = await pipeline.plan_upscale(params)
            work = float(size.scaled(params.scale).num_pixels)
            return replace(new, work=work), params.model_copy(update={"model": upscaler})
        case AnnotateParams() as params:
            return replace(new, work=float((await pipeline.plan_annotate(params)).num_pixels)), params
        case DownloadParams() as params:
            # The hub has planned it. Its bytes do not count as work, which is measured in pixels.
            return new, params
    raise TypeError(f"no operation takes {type(draft.params).__name__}")


def _outlook(job: Job, ahead: Ahead | None, work_per_s: float | None) -> Outlook:
    if job.state == "running" and job.progress is not None:
        return Outlook(None, job.progress.eta_s)
    if ahead is None:
        return Outlook(None, None)
    return Outlook(ahead.num_jobs, None if work_per_s is None else (ahead.work + job.work) / work_per_s)


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NotFound(f"There is no job {job_id!r}, or it was deleted after its time to live.", param="job_id")
    return job
