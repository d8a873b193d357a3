"""The tables of jobs, their webhooks and the cache of results. `migrations` makes them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
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
    Column("num_previews", Integer, nullable=False, server_default="0"),
    Column("batch", String(64)),
    Column("cell", JSON(none_as_null=True)),
    Column("has_webhook", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("owner", "idempotency_key", name="jobs_by_key"),
    Index("jobs_by_due", "state", "due_at"),
    Index("jobs_by_owner", "owner", "created_at"),
    Index("jobs_by_end", "state", "finished_at"),
    Index("jobs_by_batch", "batch"),
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
    Index("job_events_by_time", "at"),
)

#: Columns are named as the fields of `atelier.core.webhooks.Webhook`; the others are explained.
webhooks = Table(
    "webhooks",
    metadata,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("url", Text, nullable=False),
    Column("base_url", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    # Time of the next attempt; during one, the end of its lease. None before the job has ended and in a final state.
    Column("next_at", Double),
    Column("last_error", Text),
    Index("webhooks_by_time", "next_at"),
)

#: Results of requests that may come again.
results = Table(
    "results",
    metadata,
    # Hash of the request and of everything else that its images depend on.
    Column("key", String(64), primary_key=True),
    Column("result", JSON, nullable=False),
    # Size of its files.
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
    Index("results_by_age", "created_at"),
    # With the sizes, so that they are added up without the results.
    Index("results_by_use", "used_at", "num_bytes"),
)

#: Numbers of hits and misses, of all processes together.
result_counts = Table(
    "result_counts",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: Seeds that were drawn for requests which name none, and which are to make the same images if they come again.
seeds = Table(
    "seeds",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("key", String(250), primary_key=True),
    # Hash of what the client sent.
    Column("fingerprint", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("seeds_by_age", "created_at"),
)
