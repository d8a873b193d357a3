"""What happens to jobs, read from the database once for all who watch them.

A watcher has a mailbox. States wait in it until they are read; of a job's progress it holds the latest only.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from atelier.core.errors import JobsUnavailable
from atelier.core.jobs import JobEvent, JobId, Progress
from atelier.stores.changes import Changes
from atelier.stores.jobs import Jobs, Running

logger = logging.getLogger(__name__)

#: Seconds between two reports to watchers: as many times as long as the last one took, and within these bounds.
_REST, _MIN_REST_S, _MAX_REST_S = 9, 0.01, 0.5
#: Longest wait for a change, in seconds.
_PAUSE_S = 10.0
#: Seconds between two looks at the progress of jobs, which workers write twice a second.
_PROGRESS_S = 0.5
#: Number of states that wait in a mailbox at most.
_MAX_WAITING = 1000


@dataclass(slots=True)
class Mailbox:
    """The news of one watcher."""

    #: Whether the watcher wants the news of a job, by its id and owner.
    wants: Callable[[JobId, str], bool]
    #: Whether states were lost because too many waited.
    is_overflown: bool = False
    _events: list[JobEvent] = field(default_factory=list)
    _progress: dict[JobId, Progress] = field(default_factory=dict)
    _has_news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: JobEvent) -> None:
        """Add a change of a job's state."""
        self.is_overflown = self.is_overflown or len(self._events) >= _MAX_WAITING
        if not self.is_overflown:
            self._events.append(event)
        self._has_news.set()

    def report(self, job_id: JobId, progress: Progress) -> None:
        """Replace the progress of a job."""
        self._progress[job_id] = progress
        self._has_news.set()

    def wake(self) -> None:
        """End the wait for news without any, so that the watcher looks for itself."""
        self._has_news.set()

    async def news(self, *, timeout_s: float) -> tuple[list[JobEvent], dict[JobId, Progress]]:
        """Wait for news, and take them out; both are empty if there are none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_news.wait()
        except TimeoutError:
            pass
        self._has_news.clear()
        events, progress = self._events, self._progress
        self._events, self._progress = [], {}
        return events, progress


class Feed:
    """Reads the news of all jobs while anyone watches."""

    def __init__(self, jobs: Jobs, changes: Changes, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds, as that of `jobs`."""
        self._jobs = jobs
        self._changes = changes
        self._clock = clock
        self._mailboxes: list[Mailbox] = []
        self._reading: asyncio.Task[None] | None = None
        #: The events of the last seconds, which are not reported again.
        self._seen: dict[tuple[JobId, int], float] = {}
        self._progress: dict[JobId, Progress | None] = {}
        self._looked_s = 0.0

    @asynccontextmanager
    async def mailbox(self, wants: Callable[[JobId, str], bool]) -> AsyncIterator[Mailbox]:
        """Return a mailbox that receives all news from now on. Raises JobsUnavailable."""
        now = self._clock()
        before = [] if self._is_reading else await self._jobs.events_since(now - self._jobs.late_s)
        mailbox = Mailbox(wants)
        self._mailboxes.append(mailbox)
        if not self._is_reading:
            self._seen = {(event.job_id, event.number): event.at for event in before}
            # In a context of its own, so that it goes on when the first watcher leaves.
            self._reading = asyncio.create_task(self._read_on(now), context=contextvars.Context())
        try:
            yield mailbox
        finally:
            self._mailboxes.remove(mailbox)

    @property
    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    async def _read_on(self, since: float) -> None:
        self._progress = {}
        while self._mailboxes:
            seen, began_s = self._changes.num_seen, time.monotonic()
            try:
                since = await self._read(since)
            except JobsUnavailable as error:
                logger.warning("cannot read the news of jobs: %s", error.__cause__)
                for mailbox in self._mailboxes:
                    mailbox.wake()
            rest_s = _REST * (time.monotonic() - began_s)
            await asyncio.sleep(min(max(rest_s, _MIN_REST_S), _MAX_REST_S))
            await self._changes.after(seen, timeout_s=_PAUSE_S)

    async def _read(self, since: float) -> float:
        """Pass on what is new, and return the time of the latest event."""
        late_s = self._jobs.late_s
        events = await self._jobs.events_since(since - late_s)
        self._seen = {key: at for key, at in self._seen.items() if at >= since - late_s}
        for event in events:
            key = event.job_id, event.number
            if key not in self._seen:
                self._seen[key] = event.at
                self._tell(event)
        if time.monotonic() - self._looked_s >= _PROGRESS_S:
            self._looked_s = time.monotonic()
            running = await self._jobs.progress()
            for one in running:
                if one.progress is not None and one.progress != self._progress.get(one.job_id):
                    self._report(one, one.progress)
            self._progress = {one.job_id: one.progress for one in running}
        return max((event.at for event in events), default=since)

    def _tell(self, event: JobEvent) -> None:
        for mailbox in self._mailboxes:
            if mailbox.wants(event.job_id, event.owner):
                mailbox.put(event)

    def _report(self, one: Running, progress: Progress) -> None:
        for mailbox in self._mailboxes:
            if mailbox.wants(one.job_id, one.owner):
                mailbox.report(one.job_id, progress)
