"""Queues of jobs with a clock that stands still."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from atelier.core.jobs import Job, NewJob, WorkerId
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs

LEASE_S = 15.0
JOB = NewJob(operation="generate", params={"prompt": "a star", "seed": 3}, work=100.0)


@dataclass
class Clock:
    """Unix seconds, which a test counts on."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """A database with a clock that stands still, and its workers."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.jobs = Jobs(database, clock=self.clock)

    def worker(self, name: str = "one") -> Claims:
        return Claims(self.database, WorkerId(name), lease_s=LEASE_S, clock=self.clock)

    async def add(self, **fields: Any) -> Job:
        [job] = await self.jobs.add([replace(JOB, **fields)])
        return job

    async def now(self, job: Job) -> Job:
        found = await self.jobs.get(job.id)
        assert found is not None
        return found

    async def states(self, job: Job) -> list[str]:
        return [event.state for event in await self.jobs.events(job.id)]
