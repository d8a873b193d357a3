"""A time limit on an iterator of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from atelier.core.errors import DeadlineExceeded

E = TypeVar("E")


async def within(events: AsyncGenerator[E], deadline_s: float | None) -> AsyncGenerator[E]:
    """Yield the events until the deadline; closes the source when the consumer stops.

    The limit is set anew around each event, because a consumer may ask for each in another task.

    Raises DeadlineExceeded `deadline_s` seconds after the first event was asked for.
    """
    end_s = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(end_s):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"Not finished within deadline_s = {deadline_s}.", param="deadline_s"
                ) from error
            yield event
