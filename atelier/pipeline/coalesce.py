"""Coalescing: equal requests that run at the same time share one generation."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(slots=True)
class _Work(Generic[R]):
    """Work in progress and the number of callers that wait for it."""

    task: asyncio.Task[R]
    num_waiting: int = 0


class Coalescer(Generic[R]):
    """Shares the result of work in progress among equal callers; the work stops when the last of them has left."""

    def __init__(self, new_context: Callable[[], contextvars.Context] = contextvars.Context) -> None:
        """`new_context` is called by whoever starts work, and returns the context that the work runs in.

        It must not be the caller's own: Serve cancels what runs in the context of a client that has left.
        """
        self._new_context = new_context
        self._running: dict[Hashable, _Work[R]] = {}

    async def once(self, key: Hashable, make: Callable[[], Awaitable[R]]) -> R:
        """Return the result of the work with this key, started by `make` unless it is already in progress."""
        work = self._running.get(key)
        if work is None:
            task = asyncio.get_running_loop().create_task(_awaited(make), context=self._new_context())
            work = self._running[key] = _Work(task)
            task.add_done_callback(lambda done: self._remove(key, done))
        work.num_waiting += 1
        try:
            return await asyncio.shield(work.task)
        finally:
            work.num_waiting -= 1
            if work.num_waiting == 0:
                self._remove(key, work.task)
                work.task.cancel()

    def _remove(self, key: Hashable, task: asyncio.Task[R]) -> None:
        if key in self._running and self._running[key].task is task:
            del self._running[key]


async def _awaited(make: Callable[[], Awaitable[R]]) -> R:
    return await make()
