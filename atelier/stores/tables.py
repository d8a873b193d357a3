"""The tables of jobs. `migrations` makes them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

#: Columns are named as the fields of `atelier.core.jobs.Job`; the others are explained.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("operation", String(20), nullable=False),
    Column("params", JSON, nullable=False),
    Column("work", Double, nullable=False),
    Column("priority", String(20), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double, nullable=False),
    # Time before which it is not claimed.
    Column("run_after", Double, nullable=False),
    Column("deadline_at", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    # The worker that has it, and until when without another sign of life.
    Column("worker", String(64)),
    Column("lease_until", Double),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("is_cancel_requested", Boolean, nullable=False),
    Column("progress", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("idempotency_key", String(200)),
    # Hash of what the client sent.
    Column("fingerprint", String(64), nullable=False),
    # Number of changes of its state, and of its last event.
    Column("num_events", Integer, nullable=False),
    UniqueConstraint("owner", "idempotency_key", name="jobs_by_key"),
    Index("jobs_by_due", "state", "due_at"),
    Index("jobs_by_owner", "owner", "created_at"),
    Index("jobs_by_end", "state", "finished_at"),
)

#: Columns are named as the fields of `atelier.core.jobs.JobEvent`.
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
)
