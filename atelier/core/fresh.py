"""A value that many callers read and that is asked for again when it is old."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Fresh(Generic[T]):
    """A value with an age limit; callers that come together share one question."""

    def __init__(self, ask: Callable[[], Awaitable[T]], *, max_age_s: float) -> None:
        self._ask = ask
        self._max_age_s = max_age_s
        self._asked_s = 0.0
        self._asking: asyncio.Task[None] | None = None
        #: The last answer, also one that came too late for its callers; None before the first.
        self.last: T | None = None

    async def get(self, *, timeout_s: float | None = None) -> T:
        """Return a value of at most `max_age_s`. Raises what the question raises.

        Raises TimeoutError after `timeout_s`; the question goes on, and later callers wait for the same one.
        """
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_s > self._max_age_s):
            self._asked_s = time.monotonic()
            # In a context of its own, so that it goes on if the client that asked first leaves.
            self._asking = asyncio.create_task(self._answer(), context=contextvars.Context())
        await asyncio.wait_for(asyncio.shield(self._asking), timeout_s)
        assert self.last is not None
        return self.last

    async def _answer(self) -> None:
        self.last = await self._ask()
