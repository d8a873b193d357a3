"""Webhooks of jobs in a database: claimed by those who deliver them when their jobs have ended.

Whoever claims a webhook has it until its lease ends. Then it is due again, and the outcome of the earlier attempt
changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from sqlalchemy import RowMapping, and_, func, insert, select, update

from atelier.core.jobs import FINAL
from atelier.core.webhooks import NewWebhook, Webhook
from atelier.stores.database import Database, Writer
from atelier.stores.tables import webhooks

_FIELDS = [field.name for field in fields(Webhook)]


class Webhooks:
    """The webhooks in a database. All methods raise JobsUnavailable."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns Unix seconds; those of all nodes must agree within seconds."""
        self._database = database
        self._clock = clock

    async def get(self, job_id: str) -> Webhook | None:
        """Return the webhook of a job, or None if it has none."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(webhooks).where(webhooks.c.job_id == job_id))
            row = found.mappings().one_or_none()
        return None if row is None else _webhook_of(row)

    async def due_in_s(self) -> float | None:
        """Return the seconds until the next attempt is due, 0 if one is; None if no webhook waits for one."""
        async with self._database.reading() as connection:
            next_at = (await connection.execute(select(func.min(webhooks.c.next_at)))).scalar_one()
        return None if next_at is None else max(float(next_at) - self._clock(), 0.0)

    async def claim(self, max_webhooks: int, *, lease_s: float) -> list[Webhook]:
        """Return up to this number of webhooks that are due, for an attempt to deliver each within the lease."""
        now = self._clock()
        due = select(webhooks.c.job_id).where(webhooks.c.next_at <= now).order_by(webhooks.c.next_at)
        # The claim is no news to anyone: it only moves the time of the next attempt.
        async with self._database.writing(announces=False) as connection:
            first = due.limit(max_webhooks).with_for_update(skip_locked=True)
            ids = (await connection.execute(first)).scalars().all()
            if not ids:
                return []
            claimed = update(webhooks).where(webhooks.c.job_id.in_(ids)).returning(webhooks)
            begun = claimed.values(attempts=webhooks.c.attempts + 1, next_at=now + lease_s)
            return [_webhook_of(row) for row in (await connection.execute(begun)).mappings()]

    async def delivered(self, webhook: Webhook) -> bool:
        """End a claimed webhook. Returns False if it has been claimed again."""
        return await self._store(webhook, state="delivered", last_error=None, next_at=None)

    async def failed(self, webhook: Webhook, error: str, *, retry_s: float | None) -> bool:
        """Let a claimed webhook wait for its next attempt, or give it up if `retry_s` is None.

        Returns False if it has been claimed again.
        """
        if retry_s is None:
            return await self._store(webhook, state="given_up", last_error=error, next_at=None)
        return await self._store(webhook, last_error=error, next_at=self._clock() + retry_s)

    async def _store(self, webhook: Webhook, **values: object) -> bool:
        # Each claim counts an attempt, so that the number tells who has the webhook.
        is_mine = and_(
            webhooks.c.job_id == webhook.job_id,
            webhooks.c.attempts == webhook.attempts,
            webhooks.c.state == "pending",
        )
        async with self._database.writing() as connection:
            stored = await connection.execute(update(webhooks).where(is_mine).values(**values))
            return bool(stored.rowcount)


async def add_webhook(connection: Writer, job_id: str, new: NewWebhook) -> None:
    """Store the webhook of a job; it is due when the job has ended."""
    values = {"job_id": job_id, "state": "pending", "attempts": 0, **asdict(new)}
    await connection.execute(insert(webhooks), values)


async def make_due(connection: Writer, rows: Sequence[RowMapping], now: float) -> None:
    """Make the webhooks due of those of the jobs in `rows` that have ended."""
    ended = [row["id"] for row in rows if row["has_webhook"] and row["state"] in FINAL]
    if ended:
        await connection.execute(update(webhooks).where(webhooks.c.job_id.in_(ended)).values(next_at=now))


def _webhook_of(row: RowMapping) -> Webhook:
    return Webhook(**{name: row[name] for name in _FIELDS})
