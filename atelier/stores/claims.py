"""Jobs as workers see them: claimed, kept by signs of life, and ended.

A worker that claims a job has it until its lease ends, which every sign of life extends. When a lease has ended, the
job goes back to the queue, and whatever its worker still reports changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from sqlalchemy import JSON, Executable, and_, bindparam, func, or_, select, union_all, update

from atelier.core.errors import AtelierError, DeadlineExceeded, PoisonRequest
from atelier.core.jobs import MAX_DEATHS, Job, JobError, JobId, Json, Progress, WorkerId
from atelier.stores.database import Database
from atelier.stores.rows import change_state, changing
from atelier.stores.tables import jobs

#: Values of a job that no worker has.
_FREE: Mapping[str, Any] = {"worker": None, "lease_until": None, "progress": None}

_IS_READY = and_(jobs.c.state == "queued", jobs.c.run_after <= bindparam("now"))
#: The queued jobs that are due first. The lock is not a part of an update: Postgres may run a query inside one again
#: and lock more.
_FIRST = (
    select(jobs.c.id)
    .where(_IS_READY)
    .order_by(jobs.c.due_at, jobs.c.id)
    .limit(bindparam("max_jobs"))
    .with_for_update(skip_locked=True)
)
_IS_MINE = and_(jobs.c.state == "running", jobs.c.worker == bindparam("worker_id"))
_HELD = and_(_IS_MINE, jobs.c.id == bindparam("job_id"))
_CLAIM = changing(
    jobs.c.id.in_(bindparam("ids", expanding=True)),
    state="running",
    worker=bindparam("worker_id"),
    lease_until=bindparam("until"),
    started_at=func.coalesce(jobs.c.started_at, bindparam("now")),
    attempts=jobs.c.attempts + 1,
)
_EXTEND = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)), _IS_MINE)
    .values(lease_until=bindparam("until"))
    .returning(jobs.c.id)
)
_REACH = update(jobs).where(_HELD).values(progress=bindparam("reached", type_=JSON))
_NEWS = union_all(
    select(select(jobs.c.id, jobs.c.state).where(_IS_READY).limit(1).subquery()),
    select(jobs.c.id, jobs.c.state).where(_IS_MINE, jobs.c.is_cancel_requested),
)


@dataclass(frozen=True, slots=True)
class News:
    """What a worker is to do."""

    #: Whether a job waits to be claimed.
    is_any_ready: bool
    #: Those of the worker's jobs that are to be cancelled.
    to_cancel: frozenset[JobId]


class Claims:
    """The claims of one worker. All methods raise JobsUnavailable."""

    def __init__(
        self, database: Database, worker: WorkerId, *, lease_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` returns Unix seconds; those of all nodes must agree within seconds."""
        self._database = database
        self._worker = worker
        self._lease_s = lease_s
        self._clock = clock
        #: The progress that was stored last.
        self._told: dict[JobId, Progress] = {}

    async def news(self) -> News:
        """Return what there is to do. It costs less than `claim`, and wakes nobody who waits for changes."""
        async with self._database.reading() as connection:
            rows = (await connection.execute(_NEWS, {"now": self._clock(), "worker_id": self._worker})).all()
        return News(
            is_any_ready=any(row.state == "queued" for row in rows),
            to_cancel=frozenset(row.id for row in rows if row.state == "running"),
        )

    async def claim(self, max_jobs: int) -> list[Job]:
        """Return up to this number of queued jobs, which this worker has from now on; those that are due first."""
        async with self._database.writing() as connection:
            now = self._clock()
            ids = (await connection.execute(_FIRST, {"now": now, "max_jobs": max_jobs})).scalars().all()
            if not ids:
                return []
            claim = {"ids": ids, "now": now, "until": now + self._lease_s, "worker_id": self._worker}
            claimed = await change_state(connection, _CLAIM, claim, now=now)
        return sorted(claimed, key=lambda job: (job.due_at, job.id))

    async def keep(self, progress: Mapping[JobId, Progress | None]) -> frozenset[JobId]:
        """Extend the leases of the jobs that the worker works on, with their progress. Returns those it still has."""
        extension = {"ids": list(progress), "worker_id": self._worker, "until": self._clock() + self._lease_s}
        news = {job_id: one for job_id, one in progress.items() if one is not None and one != self._told.get(job_id)}
        async with self._database.writing() as connection:
            kept = frozenset((await connection.execute(_EXTEND, extension)).scalars())
            if news:
                await connection.execute(
                    _REACH, [{**self._of(job_id), "reached": asdict(one)} for job_id, one in news.items()]
                )
        self._told = {job_id: one for job_id, one in progress.items() if one is not None}
        return kept

    async def succeed(self, job_id: JobId, result: Json, progress: Progress | None = None) -> bool:
        """End a job with its outcome. Returns False if the worker does not have it any more."""
        last = {} if progress is None else {"progress": asdict(progress)}
        return await self._end(job_id, state="succeeded", result=dict(result), **last)

    async def fail(self, job_id: JobId, error: AtelierError) -> bool:
        """End a job with an error. Returns False if the worker does not have it any more."""
        return await self._end(job_id, state="failed", error=_fields(error))

    async def cancelled(self, job_id: JobId) -> bool:
        """End a job that was to be cancelled. Returns False if the worker does not have it any more."""
        return await self._end(job_id, state="cancelled")

    async def give_back(self, job_id: JobId, *, delay_s: float = 0.0) -> bool:
        """Queue a job again, from `delay_s` on. Returns False if the worker does not have it any more."""
        async with self._database.writing() as connection:
            now = self._clock()
            freed = changing(_HELD, **_FREE, state="queued", run_after=now + delay_s)
            return bool(await change_state(connection, freed, self._of(job_id), now=now))

    async def expire(self) -> None:
        """Free the jobs of all workers whose lease has ended, and end those whose deadline has passed."""
        now = self._clock()
        is_over = and_(jobs.c.state == "running", jobs.c.lease_until < now)
        is_late = and_(jobs.c.state == "queued", jobs.c.deadline_at < now)
        freed = {**_FREE, "deaths": jobs.c.deaths + 1}
        ended = {**freed, "finished_at": now}
        poison, late = _fields(PoisonRequest()), _fields(DeadlineExceeded())
        async with self._database.reading() as connection:
            if not (await connection.execute(select(jobs.c.id).where(or_(is_over, is_late)).limit(1))).first():
                return
        async with self._database.writing() as connection:
            at = self._clock()
            is_asked = and_(is_over, jobs.c.is_cancel_requested)
            await change_state(connection, changing(is_asked, state="cancelled", **ended), now=at)
            is_poison = and_(is_over, jobs.c.deaths + 1 >= MAX_DEATHS)
            await change_state(connection, changing(is_poison, state="failed", error=poison, **ended), now=at)
            await change_state(connection, changing(is_over, state="queued", **freed), now=at)
            failed = changing(is_late, state="failed", error=late, finished_at=now)
            await change_state(connection, failed, now=at)

    async def _end(self, job_id: JobId, **values: Any) -> bool:
        async with self._database.writing() as connection:
            now = self._clock()
            new = {_new(name): value for name, value in values.items()}
            parameters = {**self._of(job_id), **new, "now": now}
            return bool(await change_state(connection, _ending(*values), parameters, now=now))

    def _of(self, job_id: JobId) -> dict[str, str]:
        """Return the parameters of `_HELD` for a job."""
        return {"job_id": job_id, "worker_id": self._worker}


@cache
def _ending(*columns: str) -> Executable:
    """Return the statement that ends a job with new values of some columns."""
    new = {name: bindparam(_new(name), type_=jobs.c[name].type) for name in columns}
    return changing(_HELD, worker=None, lease_until=None, finished_at=bindparam("now"), **new)


def _new(column: str) -> str:
    return f"new_{column}"


def _fields(error: AtelierError) -> dict[str, object]:
    return asdict(JobError(message=error.message, type=error.type, code=error.code, param=error.param))
