"""Jobs for those who hand them in: checked and planned at once, then done by a worker, and watched meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from atelier.core.errors import JobsUnavailable, NotFound, NotSupported, QueueFull
from atelier.core.jobs import FINAL, Job, JobEvent, NewJob, Operation, Progress
from atelier.core.params import AnnotateParams, GenerateParams, Params, UpscaleParams
from atelier.core.webhooks import NewWebhook
from atelier.jobs.params import stored
from atelier.jobs.receivers import Receivers
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from atelier.stores.changes import Changes
from atelier.stores.jobs import Jobs

logger = logging.getLogger(__name__)

#: Seconds between two reports to a watcher, at least.
_REPORT_S = 0.1
#: Seconds without news after which a watcher is told that there are none.
_PAUSE_S = 10.0
_FULL_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected of a job that has not ended."""

    #: Number of queued jobs that are due before it; None if it runs.
    position: int | None
    #: Seconds until it ends; None if nothing is known yet.
    eta_s: float | None


@dataclass(frozen=True, slots=True)
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

    async def submit(
        self,
        pipeline: Pipeline,
        operation: Operation,
        params: Params,
        *,
        rank: int = 0,
        delay_s: float = 0.0,
        idempotency_key: str | None = None,
        fingerprint: str = "",
        webhook: NewWebhook | None = None,
    ) -> Job:
        """Check params as the pipeline would, store their images, and queue a job; see NewJob for the rest.

        Its seed is drawn here, so that every attempt makes the same images. Raises what a direct request raises if it
        is rejected, QueueFull, IdempotencyConflict and StoreUnavailable.
        """
        if idempotency_key is not None and (known := await self.jobs.with_key("", idempotency_key, fingerprint)):
            return known
        if await self.jobs.num_queued() >= self.max_queued:
            raise QueueFull(
                f"{self.max_queued} jobs wait already; try again when some have been done.",
                retry_after_s=_FULL_RETRY_AFTER_S,
            )
        planned, work = await _planned(pipeline, params)
        new = NewJob(
            operation=operation,
            params={},
            work=work,
            rank=rank,
            delay_s=delay_s,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
            webhook=webhook,
        )
        if isinstance(planned, GenerateParams):
            new = replace(new, priority=planned.priority, deadline_s=planned.deadline_s)
            # It is counted from now on, not from the time when a worker begins.
            planned = planned.model_copy(update={"deadline_s": None})
        [job] = await self.jobs.add([replace(new, params=await stored(planned, self.files))])
        return job

    def new_webhook(self, url: str, base_url: str) -> NewWebhook:
        """Return a webhook for `submit`. Raises InvalidParameter, and NotSupported if this server sends none."""
        if self.receivers is None:
            raise NotSupported("webhook: this server sends none; set ATELIER_WEBHOOK_SECRET.", param="webhook")
        return NewWebhook(url=self.receivers.checked(url), base_url=base_url)

    async def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        return _found(await self.jobs.get(job_id), job_id)

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, and return it as it is then. Raises NotFound."""
        return _found(await self.jobs.cancel(job_id), job_id)

    async def outlook(self, job: Job) -> Outlook:
        """Return what is expected of a job, from its progress or from the speed of the last ones."""
        if job.state == "running" and job.progress is not None and job.progress.step:
            return Outlook(None, _left_s(job.progress))
        if job.state != "queued":
            return Outlook(None, None)
        (position, work), per_s = await self.jobs.ahead_of(job), await self.jobs.work_per_s()
        return Outlook(position, None if per_s is None else (work + job.work) / per_s)

    async def watch(self, job_id: str, *, after: int = 0) -> AsyncGenerator[JobEvent | Progress | None]:
        """Yield the changes of a job's state that follow the event `after`, and its progress, until it has ended.

        None is yielded after every ten seconds without news. A slow consumer gets the latest progress, not all of it.
        """
        progress: Progress | None = None
        while True:
            seen = self.changes.num_seen
            job = await self.jobs.get(job_id)
            for event in await self.jobs.events(job_id, after=after):
                after = event.number
                yield event
            if job is None or job.state in FINAL:
                return
            if job.progress not in (None, progress):
                progress = job.progress
                yield progress
            await asyncio.sleep(_REPORT_S)
            await self.changes.after(seen, timeout_s=_PAUSE_S)
            if self.changes.num_seen == seen:
                yield None

    async def purge(self, *, finished_before: float) -> None:
        """Delete jobs that had ended by then; if the database cannot be reached, the next call does it."""
        try:
            num_deleted = await self.jobs.purge(finished_before=finished_before)
        except JobsUnavailable as error:
            logger.warning("cannot delete old jobs: %s", error.__cause__)
            return
        if num_deleted:
            logger.info("deleted %d old jobs", num_deleted)


async def _planned(pipeline: Pipeline, params: Params) -> tuple[Params, float]:
    """Return params with nothing open, and their work."""
    match params:
        case GenerateParams():
            plan = await pipeline.plan(params)
            return plan.params, float(plan.pixel_steps)
        case UpscaleParams():
            upscaler, size = await pipeline.plan_upscale(params)
            return params.model_copy(update={"model": upscaler}), float(size.scaled(params.scale).num_pixels)
        case AnnotateParams():
            return params, float((await pipeline.plan_annotate(params)).num_pixels)
    raise TypeError(f"no operation takes {type(params).__name__}")


def _left_s(progress: Progress) -> float:
    return progress.elapsed_s / progress.step * (progress.total - progress.step)


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NotFound(f"There is no job {job_id!r}, or it was deleted after its time to live.", param="job_id")
    return job
