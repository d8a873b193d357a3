"""One dedicated thread for a model: load, warm up and run all happen there.

A model first run in one thread and then in another is 2.3 × slower on the CPU (measured), because OpenMP
keeps a pool of workers per calling thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    result: T


def result_of(steps: Generator[None, None, T]) -> T:
    """What a generator returns, without its pauses."""
    while (end := _next(steps)) is None:
        pass
    return end.result


class ModelThread:
    """Runs calls one after the other in its own thread, with a fixed number of OpenMP threads."""

    def __init__(self, name: str, *, num_threads: int) -> None:
        self._executor = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(num_threads,))
        self._busy_since_s: float | None = None

    def submit(self, call: Callable[[], T]) -> Future[T]:
        return self._executor.submit(self._timed, call)

    def run(self, call: Callable[[], T]) -> T:
        """Run and wait; for constructors."""
        return self.submit(call).result()

    async def run_async(self, call: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.submit(call))

    async def run_in_steps(self, steps: Generator[None, None, T]) -> T:
        """The result of a generator that pauses: others' calls come in between, and none follows when who waits is
        cancelled."""
        while (end := await self.run_async(lambda: _next(steps))) is None:
            pass
        return end.result

    def check(self, *, stall_s: float) -> None:
        """Raises TimeoutError if the call in progress has been running for longer than `stall_s`."""
        since = self._busy_since_s
        if since is not None and time.monotonic() - since > stall_s:
            raise TimeoutError(f"a model call has been running for over {stall_s} s")

    def _timed(self, call: Callable[[], T]) -> T:
        self._busy_since_s = time.monotonic()
        try:
            return call()
        finally:
            self._busy_since_s = None


def _next(steps: Generator[None, None, T]) -> _End[T] | None:
    """One more step; a StopIteration cannot go through a future."""
    try:
        next(steps)
    except StopIteration as stop:
        return _End(stop.value)
    return None
