"""Jobs as those who hand them in see them: added, read, listed, cancelled, and purged when they are old."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple, get_args

from sqlalchemy import (
    Double,
    Executable,
    Integer,
    RowMapping,
    String,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
)
from sqlalchemy.exc import IntegrityError

from atelier.core.errors import IdempotencyConflict
from atelier.core.jobs import FINAL, Job, JobEvent, JobId, JobState, NewJob, Operation, Progress
from atelier.stores.database import Database, Reader
from atelier.stores.rows import change_state, changing, job_of, progress_of, record_events
from atelier.stores.tables import job_events, jobs
from atelier.stores.webhooks import Webhooks, add_webhook

#: Number of jobs whose speed is an estimate of the next ones'.
_NUM_MEASURED = 20

_ADD = insert(jobs).returning(jobs)
_OF_IDS = select(jobs).where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
_NUM_QUEUED = select(func.count()).where(jobs.c.state == "queued")
_RUNNING = select(jobs.c.id, jobs.c.owner, jobs.c.progress).where(jobs.c.state == "running")
_EVENTS = (
    select(job_events, jobs.c.owner)
    .join(jobs)
    .order_by(job_events.c.at, job_events.c.job_id, job_events.c.number)
    .limit(bindparam("max_events"))
)
_EVENTS_OF = _EVENTS.where(job_events.c.job_id == bindparam("of"), job_events.c.number > bindparam("after"))
_EVENTS_SINCE = _EVENTS.where(job_events.c.at >= bindparam("since"))
_EVENTS_BEYOND = _EVENTS_SINCE.where(
    tuple_(job_events.c.at, job_events.c.job_id, job_events.c.number)
    > tuple_(bindparam("at", type_=Double), bindparam("of", type_=String), bindparam("number", type_=Integer))
)
#: More events than there are.
_ALL = 2**31 - 1


class Ahead(NamedTuple):
    """The queued jobs that are due before one."""

    num_jobs: int
    work: float


class Running(NamedTuple):
    """A job that runs."""

    job_id: JobId
    owner: str
    #: None until its worker has told any.
    progress: Progress | None


class Jobs:
    """The jobs in a database. All methods raise JobsUnavailable."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds; those of all nodes must agree within seconds."""
        self._database = database
        self._clock = clock
        self.webhooks = Webhooks(database, clock=clock)

    async def add(self, new_jobs: Sequence[NewJob]) -> list[Job]:
        """Store jobs, all or none; a job whose key its owner has used before is the one that was stored then.

        Raises IdempotencyConflict if that one is different.
        """
        try:
            return await self._add(new_jobs)
        except IntegrityError:
            # Another process has stored a job with the same key since this one looked.
            return await self._add(new_jobs)

    async def get(self, job_id: str) -> Job | None:
        """Return a job, or None if there is none with this id."""
        return next(iter(await self.get_all([job_id])), None)

    async def with_key(self, owner: str, idempotency_key: str, fingerprint: str) -> Job | None:
        """Return the job that its owner handed in with this key, or None if there is none.

        Raises IdempotencyConflict if it has another fingerprint.
        """
        async with self._database.reading() as connection:
            row = await _with_key(connection, owner, idempotency_key, fingerprint)
        return None if row is None else job_of(row)

    async def get_all(self, job_ids: Sequence[str]) -> list[Job]:
        """Return the jobs with these ids, as far as there are any, in any order."""
        async with self._database.reading() as connection:
            rows = await connection.execute(_OF_IDS, {"job_ids": job_ids})
            return [job_of(row) for row in rows.mappings()]

    async def of_batch(self, batch: str) -> list[Job]:
        """Return the jobs of a batch, in the order in which they were handed in."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(jobs).where(jobs.c.batch == batch))
            found = [job_of(row) for row in rows.mappings()]
        return sorted(found, key=lambda job: int(str((job.cell or {}).get("index", 0))))

    async def page(
        self,
        owner: str,
        *,
        states: Sequence[JobState] = (),
        operations: Sequence[Operation] = (),
        before: Job | None = None,
        max_jobs: int,
    ) -> list[Job]:
        """Return an owner's jobs, the latest first, from the one that follows `before` on."""
        which = [jobs.c.owner == owner]
        if states:
            which.append(jobs.c.state.in_(states))
        if operations:
            which.append(jobs.c.operation.in_(operations))
        if before is not None:
            is_older = jobs.c.created_at < before.created_at
            which.append(or_(is_older, and_(jobs.c.created_at == before.created_at, jobs.c.id < before.id)))
        latest = select(jobs).where(*which).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(max_jobs)
        async with self._database.reading() as connection:
            return [job_of(row) for row in (await connection.execute(latest)).mappings()]

    async def ahead_of(self, queued: Sequence[Job]) -> Mapping[JobId, Ahead]:
        """Return what is due before each of some queued jobs, except for those that are not queued any more."""
        order = (jobs.c.due_at, jobs.c.id)
        until = max((job.due_at for job in queued), default=0.0)
        places = select(
            jobs.c.id,
            (func.row_number().over(order_by=order) - 1).label("num_jobs"),
            (func.sum(jobs.c.work).over(order_by=order) - jobs.c.work).label("work"),
        )
        numbered = places.where(jobs.c.state == "queued", jobs.c.due_at <= until).subquery()
        found = select(numbered).where(numbered.c.id.in_([job.id for job in queued]))
        async with self._database.reading() as connection:
            return {row.id: Ahead(row.num_jobs, row.work) for row in await connection.execute(found)}

    async def num_queued(self) -> int:
        """Return the number of jobs that wait."""
        async with self._database.reading() as connection:
            return int((await connection.execute(_NUM_QUEUED)).scalar_one())

    async def num_by_state(self) -> dict[JobState, int]:
        """Return the number of jobs in each state."""
        counts = select(jobs.c.state, func.count().label("num_jobs")).group_by(jobs.c.state)
        async with self._database.reading() as connection:
            found = {row.state: row.num_jobs for row in await connection.execute(counts)}
        return {state: found.get(state, 0) for state in get_args(JobState)}

    async def work_per_s(self) -> float | None:
        """Return the work a second of the last generations, over the time in which any of them ran.

        None is returned if no generation has succeeded yet.
        """
        ended = jobs.c.state == "succeeded"
        last = (
            select(jobs.c.work, jobs.c.started_at, jobs.c.finished_at)
            .where(ended, jobs.c.operation.in_(("generate", "edit", "variation")))
            .order_by(jobs.c.finished_at.desc())
            .limit(_NUM_MEASURED)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(last)).all()
        if not rows:
            return None
        busy_s, busy_until = 0.0, 0.0
        for row in sorted(rows, key=lambda row: row.started_at):
            busy_s += max(row.finished_at - max(row.started_at, busy_until), 0.0)
            busy_until = max(busy_until, row.finished_at)
        return float(sum(row.work for row in rows) / max(busy_s, 1e-3))

    async def events(self, job_id: str, *, after: int = 0) -> list[JobEvent]:
        """Return the changes of a job's state that follow the event of this number."""
        return await self._events(_EVENTS_OF, {"of": job_id, "after": after, "max_events": _ALL})

    async def events_since(
        self, at: float, *, beyond: JobEvent | None = None, max_events: int = _ALL
    ) -> list[JobEvent]:
        """Return changes of all jobs' states since this time, in order, from the one that follows `beyond` on."""
        values: dict[str, object] = {"since": at, "max_events": max_events}
        if beyond is None:
            return await self._events(_EVENTS_SINCE, values)
        last = {"at": beyond.at, "of": beyond.job_id, "number": beyond.number}
        return await self._events(_EVENTS_BEYOND, values | last)

    @property
    def late_s(self) -> float:
        """Seconds by which an event may be stored after the time that it has, with differences of clocks."""
        # On SQLite a transaction reads the clock when it has the file to itself.
        return 5.0 if self._database.is_postgres else 0.1

    async def progress(self) -> list[Running]:
        """Return the progress of the jobs that run."""
        async with self._database.reading() as connection:
            rows = await connection.execute(_RUNNING)
            return [Running(row.id, row.owner, progress_of(row.progress)) for row in rows]

    async def cancel(self, job_id: str) -> Job | None:
        """Cancel a job; its worker stops one that runs. Returns it as it is then, or None if there is none."""
        async with self._database.writing() as connection:
            now = self._clock()
            is_waiting = and_(jobs.c.id == job_id, jobs.c.state == "queued")
            await change_state(connection, changing(is_waiting, state="cancelled", finished_at=now), now=now)
            asked = jobs.update().where(jobs.c.id == job_id, jobs.c.state == "running")
            await connection.execute(asked.values(is_cancel_requested=True))
        return await self.get(job_id)

    async def delete_of(self, owner: str) -> list[Job]:
        """Delete all jobs of an owner, in any state, and return them."""
        async with self._database.writing() as connection:
            rows = await connection.execute(delete(jobs).where(jobs.c.owner == owner).returning(jobs))
            return [job_of(row) for row in rows.mappings()]

    async def purge(self, *, finished_before: float) -> int:
        """Delete jobs that had ended by then, with their events. Returns their number."""
        old = delete(jobs).where(jobs.c.state.in_(FINAL), jobs.c.finished_at < finished_before)
        async with self._database.writing() as connection:
            return (await connection.execute(old)).rowcount

    async def _events(self, which: Executable, values: Mapping[str, object]) -> list[JobEvent]:
        async with self._database.reading() as connection:
            return [JobEvent(**row) for row in (await connection.execute(which, values)).mappings()]

    async def _add(self, new_jobs: Sequence[NewJob]) -> list[Job]:
        added = list[Job]()
        async with self._database.writing() as connection:
            now = self._clock()
            for new in new_jobs:
                key = new.idempotency_key
                row = None if key is None else await _with_key(connection, new.owner, key, new.fingerprint)
                if row is None:
                    stored = await connection.execute(_ADD, _row(new, now))
                    row = stored.mappings().one()
                    await record_events(connection, [row], now)
                    if new.webhook is not None:
                        await add_webhook(connection, row["id"], new.webhook)
                added.append(job_of(row))
        return added


async def _with_key(connection: Reader, owner: str, key: str, fingerprint: str) -> RowMapping | None:
    same = select(jobs).where(jobs.c.owner == owner, jobs.c.idempotency_key == key)
    row = (await connection.execute(same)).mappings().one_or_none()
    if row is not None and row["fingerprint"] != fingerprint:
        raise IdempotencyConflict(f"Another job was handed in with the Idempotency-Key {key!r}: {row['id']}.")
    return row


def _row(new: NewJob, now: float) -> dict[str, object]:
    fields = asdict(new)
    has_webhook = fields.pop("webhook") is not None
    deadline_s, delay_s = fields.pop("deadline_s"), fields.pop("delay_s")
    return {
        **fields,
        "id": JobId(f"job_{secrets.token_hex(16)}"),
        "state": "queued",
        "created_at": now,
        "due_at": new.due_at(now),
        "run_after": now + delay_s,
        "deadline_at": None if deadline_s is None else now + deadline_s,
        "attempts": 0,
        "deaths": 0,
        "is_cancel_requested": False,
        "has_webhook": has_webhook,
        "num_events": 1,
    }
