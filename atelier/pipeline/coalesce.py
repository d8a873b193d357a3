"""Equal work in flight is done once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(slots=True)
class _Work(Generic[R]):
    task: asyncio.Task[R]
    num_waiting: int = 0


class Coalescer(Generic[R]):
    """Whoever asks for what is being made waits for it; it stops when the last who waits has left."""

    def __init__(self) -> None:
        self._in_flight: dict[Hashable, _Work[R]] = {}

    async def once(self, key: Hashable, make: Callable[[], Awaitable[R]]) -> R:
        work = self._in_flight.get(key)
        if work is None:
            # A context of its own: the first client's leaving is not the others'.
            task = asyncio.get_running_loop().create_task(_awaited(make), context=contextvars.Context())
            work = self._in_flight[key] = _Work(task)
            task.add_done_callback(lambda done: self._forget(key, done))
        work.num_waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.num_waiting -= 1
            if work.num_waiting == 0:
                self._forget(key, work.task)
                work.task.cancel()

    def _forget(self, key: Hashable, task: asyncio.Task[R]) -> None:
        if key in self._in_flight and self._in_flight[key].task is task:
            del self._in_flight[key]


async def _awaited(make: Callable[[], Awaitable[R]]) -> R:
    return await make()
