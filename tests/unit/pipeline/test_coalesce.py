from __future__ import annotations

import asyncio
import contextvars

import pytest

from atelier.pipeline.coalesce import Coalescer

_WAIT_S = 10


class _Work:
    """Work that counts its runs, waits until it may end, and notes whether it was cancelled."""

    def __init__(self) -> None:
        self.num_runs = 0
        self.begun, self.may_end, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def make(self) -> int:
        self.num_runs += 1
        run = self.num_runs
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return run


def _callers(coalescer: Coalescer[int], work: _Work, *keys: str) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(coalescer.once(key, work.make)) for key in keys]


async def _cancel(*tasks: asyncio.Task[int]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_equal_work_in_progress_is_done_once() -> None:
    coalescer, work = Coalescer[int](), _Work()
    work.may_end.set()
    assert await asyncio.gather(*_callers(coalescer, work, "a", "a", "a")) == [1, 1, 1]


async def test_work_with_another_key_is_done_by_itself() -> None:
    coalescer, work = Coalescer[int](), _Work()
    work.may_end.set()
    assert await asyncio.gather(*_callers(coalescer, work, "a", "b", "a")) == [1, 2, 1]


async def test_finished_work_is_done_anew() -> None:
    coalescer, work = Coalescer[int](), _Work()
    work.may_end.set()
    assert [await coalescer.once("a", work.make) for _ in range(2)] == [1, 2]


async def test_a_caller_who_leaves_does_not_stop_the_others() -> None:
    coalescer, work = Coalescer[int](), _Work()
    first, second, third = _callers(coalescer, work, "a", "a", "a")
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    await _cancel(first, third)
    work.may_end.set()
    assert await second == 1
    assert first.cancelled()
    assert not work.cancelled.is_set()


async def test_work_stops_when_all_callers_have_left() -> None:
    coalescer, work = Coalescer[int](), _Work()
    callers = _callers(coalescer, work, "a", "a")
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    await _cancel(*callers)
    await asyncio.wait_for(work.cancelled.wait(), _WAIT_S)


async def test_a_caller_after_all_have_left_starts_anew() -> None:
    coalescer, work = Coalescer[int](), _Work()
    [left] = _callers(coalescer, work, "a")
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    left.cancel()
    work.may_end.set()
    later = _callers(coalescer, work, "a", "a")
    assert await asyncio.gather(*later) == [2, 2]


async def test_work_that_ends_late_does_not_end_its_successor() -> None:
    coalescer, work, slow_to_stop = Coalescer[int](), _Work(), asyncio.Event()

    async def stubborn() -> int:
        try:
            return await work.make()
        except asyncio.CancelledError:
            await slow_to_stop.wait()
            raise

    stopped = asyncio.create_task(coalescer.once("a", stubborn))
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    await _cancel(stopped)
    work.begun.clear()
    [successor] = _callers(coalescer, work, "a")
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    slow_to_stop.set()
    for _ in range(10):  # the first work ends, then what waits for its end
        await asyncio.sleep(0)
    [joined] = _callers(coalescer, work, "a")
    await asyncio.sleep(0)
    work.may_end.set()
    assert [await successor, await joined] == [2, 2]


async def test_an_error_reaches_all_callers_and_is_not_kept() -> None:
    coalescer, work = Coalescer[int](), _Work()
    work.may_end.set()

    async def fail() -> int:
        raise ValueError("broken")

    callers = [coalescer.once("a", fail) for _ in range(2)]
    assert [str(error) for error in await asyncio.gather(*callers, return_exceptions=True)] == ["broken"] * 2
    assert await coalescer.once("a", work.make) == 1


async def test_work_runs_outside_the_context_of_its_first_caller() -> None:
    """Serve cancels what runs in the context of a client that has left."""
    caller = contextvars.ContextVar("caller", default="nobody")
    caller.set("first")

    async def make() -> str:
        return caller.get()

    assert await Coalescer[str]().once("a", make) == "nobody"


async def test_a_caller_is_cancelled_at_once() -> None:
    coalescer, work = Coalescer[int](), _Work()
    first, second = _callers(coalescer, work, "a", "a")
    await asyncio.wait_for(work.begun.wait(), _WAIT_S)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(first, _WAIT_S)
    await _cancel(second)
