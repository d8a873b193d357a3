"""The time limit of a request, over all of its stages and events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from atelier.core.errors import DeadlineExceeded

E = TypeVar("E")


class Deadline:
    """The time by which a request must be finished, counted from its arrival."""

    def __init__(self, asked_s: float | None, *, default_s: float) -> None:
        """Allow the seconds that the client asked for, or `default_s` if it asked for none."""
        self._asked_s = asked_s
        self._limit_s = default_s if asked_s is None else asked_s
        self._end_s = asyncio.get_running_loop().time() + self._limit_s

    @property
    def is_asked(self) -> bool:
        """Whether the client asked for a deadline."""
        return self._asked_s is not None

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, at least 0."""
        return max(self._end_s - asyncio.get_running_loop().time(), 0.0)

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the body at the deadline. Raises DeadlineExceeded then."""
        try:
            async with asyncio.timeout_at(self._end_s):
                yield
        except TimeoutError as error:
            raise self._exceeded() from error

    async def within(self, events: AsyncGenerator[E]) -> AsyncGenerator[E]:
        """Yield the events until the deadline; closes the source when the consumer stops.

        The limit is set anew around each event, because a consumer may ask for each in another task.

        Raises DeadlineExceeded at the deadline.
        """
        async with aclosing(events):
            while True:
                try:
                    async with self.enforced():
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                yield event

    def _exceeded(self) -> DeadlineExceeded:
        if self._asked_s is None:
            return DeadlineExceeded(f"Not finished within the {self._limit_s:g} s that this server allows.")
        return DeadlineExceeded(f"Not finished within deadline_s = {self._asked_s}.", param="deadline_s")
