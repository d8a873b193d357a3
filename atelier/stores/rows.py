"""Rows of the table of jobs as values, and the one way in which a job changes its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Executable, RowMapping, insert, update

from atelier.core.jobs import Job, JobError, Progress, Transfer
from atelier.stores.database import Writer
from atelier.stores.tables import job_events, jobs
from atelier.stores.webhooks import make_due

_RECORD = insert(job_events)
_FIELDS = [field.name for field in fields(Job)]


def job_of(row: RowMapping) -> Job:
    """Return the job in a row of the table."""
    values = {name: row[name] for name in _FIELDS}
    values["progress"] = progress_of(row["progress"])
    values["error"] = None if row["error"] is None else JobError(**row["error"])
    return Job(**values)


def progress_of(fields: dict[str, Any] | None) -> Progress | None:
    """Return the progress in a row of the table."""
    if fields is None:
        return None
    transfer = fields.get("transfer")
    converted = {
        "previews": tuple(fields.get("previews", ())),
        "transfer": None if transfer is None else Transfer(**transfer),
    }
    return Progress(**{**fields, **converted})


def changing(which: ColumnElement[bool], **values: Any) -> Executable:
    """Return a statement that gives the jobs that are meant other values, among them `state`."""
    return update(jobs).where(which).values(num_events=jobs.c.num_events + 1, **values).returning(jobs)


async def change_state(
    connection: Writer, changing: Executable, parameters: Mapping[str, Any] | None = None, *, now: float
) -> list[Job]:
    """Change jobs by a statement of `changing`, and record it. Returns them as they are then."""
    rows = (await connection.execute(changing, parameters)).mappings().all()
    if rows:
        await record_events(connection, rows, now)
        await make_due(connection, rows, now)
    return [job_of(row) for row in rows]


async def record_events(connection: Writer, rows: Sequence[RowMapping], now: float) -> None:
    """Record the state that jobs have come into; `num_events` of each has been counted up."""
    events = [
        {
            "job_id": row["id"],
            "number": row["num_events"],
            "at": now,
            "state": row["state"],
            "attempts": row["attempts"],
        }
        for row in rows
    ]
    await connection.execute(_RECORD, events)
