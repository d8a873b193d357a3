"""A dedicated thread in which models are loaded, warmed up and run.

A model that is first run in one thread and then in another is 2.3 times slower on the CPU (measured), because OpenMP
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

from atelier.core.errors import AtelierError
from atelier.models.failures import Failures

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    result: T


def result_of(steps: Generator[None, None, T]) -> T:
    """Run a generator to its end without pausing, and return its result."""
    while (end := _next(steps)) is None:
        pass
    return end.result


class ModelThread:
    """A thread that runs calls one after the other, with a fixed number of OpenMP threads."""

    def __init__(self, name: str, *, num_threads: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is the clock that `check` measures stalls by."""
        self._executor = ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(num_threads,))
        self._now_s = now_s
        self._busy_since_s: float | None = None
        self._failures = Failures()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call behind those submitted before."""
        return self._executor.submit(self._timed, call)

    def run(self, call: Callable[[], T]) -> T:
        """Run a call and block until it returns; for constructors."""
        return self.submit(call).result()

    async def run_async(self, call: Callable[[], T]) -> T:
        """Run a call without blocking the event loop.

        Raises the call's AtelierErrors, and GenerationFailed for every other error: ReplicaLost if calls before it
        have failed, too.
        """
        try:
            result = await asyncio.wrap_future(self.submit(call))
        except AtelierError:
            raise
        except Exception as error:
            raise self._failures.failed(error, what="A model call") from error
        self._failures.succeeded()
        return result

    async def run_in_steps(self, steps: Generator[None, None, T]) -> T:
        """Run a generator to its end and return its result, letting other calls run at each `yield`.

        No further step runs once the caller is cancelled. Raises what `run_async` raises.
        """
        while (end := await self.run_async(lambda: _next(steps))) is None:
            pass
        return end.result

    def check(self, *, stall_s: float) -> None:
        """Raise TimeoutError if the call in progress has been running for more than `stall_s` seconds.

        Raises RuntimeError if the last calls have all failed.
        """
        self._failures.check()
        since_s = self._busy_since_s
        if since_s is not None and self._now_s() - since_s > stall_s:
            raise TimeoutError(f"a model call has been running for over {stall_s} s")

    def _timed(self, call: Callable[[], T]) -> T:
        self._busy_since_s = self._now_s()
        try:
            return call()
        finally:
            self._busy_since_s = None


def _next(steps: Generator[None, None, T]) -> _End[T] | None:
    """Run a generator to its next `yield` and return None, or to its end and return its result.

    The result is returned as `_End`, because a future cannot carry StopIteration.
    """
    try:
        next(steps)
    except StopIteration as stop:
        return _End(stop.value)
    return None
