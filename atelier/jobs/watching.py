"""Jobs as their watchers see them: what has happened before, from the database, and then the news of the feed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

from atelier.core.jobs import FINAL, Job, JobEvent, JobId, Progress
from atelier.jobs.feed import Feed, Mailbox
from atelier.stores.jobs import Jobs

#: Seconds without news after which None is yielded, so that a connection is kept open.
_PAUSE_S = 10.0
#: Number of events that are read at once.
_PAGE = 500


class OfJob(NamedTuple):
    """The progress of one of several jobs."""

    job_id: JobId
    progress: Progress


async def watch(jobs: Jobs, feed: Feed, job_id: str, *, after: int = 0) -> AsyncGenerator[JobEvent | Progress | None]:
    """Yield the changes of a job's state that follow the event `after`, and its progress, until it has ended.

    None is yielded after every ten seconds without news. A slow consumer gets the latest progress, not all of it.
    Raises JobsUnavailable.
    """
    async with feed.mailbox(lambda one, _: one == job_id) as mailbox:
        while True:
            job = await jobs.get(job_id)
            for event in await jobs.events(job_id, after=after):
                after = event.number
                yield event
            if job is None or job.state in FINAL:
                return
            if job.progress is not None:
                yield job.progress
            async with aclosing(_news(mailbox, after)) as news:
                async for one in news:
                    if isinstance(one, JobEvent):
                        after = one.number
                    yield one


async def _news(mailbox: Mailbox, after: int) -> AsyncGenerator[JobEvent | Progress | None]:
    """Yield the news of one job until the database must be read again.

    That is when there have been none for a while, when the feed has left out an event, and at the job's end.
    """
    while True:
        events, progress = await mailbox.news(timeout_s=_PAUSE_S)
        for event in events:
            if event.number > after + 1 or event.state in FINAL:
                return
            if event.number == after + 1:
                after = event.number
                yield event
        for reached in progress.values():
            yield reached
        if not events and not progress:
            yield None
            return


async def ended(jobs: Jobs, feed: Feed, job_id: str) -> Job | None:
    """Return a job when it has ended, or None when it is deleted. Raises JobsUnavailable."""
    async with feed.mailbox(lambda one, _: one == job_id) as mailbox:
        job = await jobs.get(job_id)
        while job is not None and job.state not in FINAL:
            events, progress = await mailbox.news(timeout_s=_PAUSE_S)
            if any(event.state in FINAL for event in events) or not (events or progress):
                job = await jobs.get(job_id)
        return job


async def watch_all(
    jobs: Jobs, feed: Feed, owner: str, *, since: float | None = None
) -> AsyncGenerator[JobEvent | OfJob]:
    """Yield the changes of the states of all jobs of an owner, and their progress.

    Changes from the time `since` on come first. Ends if the consumer is so slow that states would be lost. Raises
    JobsUnavailable.
    """
    async with feed.mailbox(lambda _, of: of == owner) as mailbox:
        # The mailbox may receive events of the last seconds that are read from the database here as well.
        told, latest = set[tuple[JobId, int]](), time.time() - jobs.late_s
        async with aclosing(_before(jobs, since)) as events_before:
            async for event in events_before:
                if event.owner == owner:
                    yield event
                if event.at >= latest:
                    told.add((event.job_id, event.number))
        while not mailbox.is_overflown:
            events, progress = await mailbox.news(timeout_s=_PAUSE_S)
            for event in events:
                if (event.job_id, event.number) not in told:
                    yield event
            for job_id, reached in progress.items():
                yield OfJob(job_id, reached)


async def _before(jobs: Jobs, since: float | None) -> AsyncGenerator[JobEvent]:
    """Yield the events since a time, page by page; none if it is None."""
    page = [] if since is None else await jobs.events_since(since, max_events=_PAGE)
    while page and since is not None:
        for event in page:
            yield event
        page = await jobs.events_since(since, beyond=page[-1], max_events=_PAGE)
