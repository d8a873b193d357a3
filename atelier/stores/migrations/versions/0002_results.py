"""Create the tables of the cache of results, and what batches of jobs and their previews need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("num_previews", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("batch", sa.String(64)))
    op.add_column("jobs", sa.Column("cell", sa.JSON))
    op.create_index("jobs_by_batch", "jobs", ["batch"])
    op.create_index("job_events_by_time", "job_events", ["at"])
    op.create_table(
        "results",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("result", sa.JSON, nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
    )
    op.create_index("results_by_age", "results", ["created_at"])
    op.create_index("results_by_use", "results", ["used_at", "num_bytes"])
    op.create_table(
        "result_counts",
        sa.Column("name", sa.String(20), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "seeds",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(250), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("seeds_by_age", "seeds", ["created_at"])


def downgrade() -> None:
    for name in ("seeds", "result_counts", "results"):
        op.drop_table(name)
    op.drop_index("job_events_by_time", "job_events")
    op.drop_index("jobs_by_batch", "jobs")
    for name in ("cell", "batch", "num_previews"):
        op.drop_column("jobs", name)
