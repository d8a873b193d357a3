"""Create the table of webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("has_webhook", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("base_url", sa.Text, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("webhooks_by_time", "webhooks", ["next_at"])


def downgrade() -> None:
    op.drop_table("webhooks")
    op.drop_column("jobs", "has_webhook")
