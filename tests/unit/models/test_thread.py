"""Long work in steps: others come in between, and none is done for who has left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from atelier.models.thread import ModelThread, result_of


def _work(done: list[str], name: str, *, num_steps: int) -> Generator[None, None, str]:
    for step in range(num_steps):
        done.append(f"{name}{step}")
        yield
    return name


def test_the_result_is_what_the_generator_returns() -> None:
    assert result_of(_work([], "a", num_steps=3)) == "a"


async def test_work_in_steps_is_shared_fairly() -> None:
    thread, done = ModelThread("test", num_threads=1), list[str]()
    names = await asyncio.gather(*(thread.run_in_steps(_work(done, name, num_steps=3)) for name in "ab"))
    assert names == ["a", "b"]
    assert done == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_nothing_is_done_for_who_has_left() -> None:
    thread, go_on = ModelThread("test", num_threads=1), threading.Event()
    done: list[int] = []

    def work() -> Generator[None, None, None]:
        for step in range(1000):
            done.append(step)
            yield
            go_on.wait(timeout=10)

    waiting = asyncio.create_task(thread.run_in_steps(work()))
    while not done:  # noqa: ASYNC110 the thread tells nobody
        await asyncio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await thread.run_async(lambda: None)
    assert len(done) <= 2


async def test_a_long_work_in_short_steps_is_no_hang() -> None:
    thread = ModelThread("test", num_threads=1)

    def work() -> Generator[None, None, None]:
        for _ in range(20):
            threading.Event().wait(0.05)
            yield

    waiting = asyncio.create_task(thread.run_in_steps(work()))
    while not waiting.done():
        await asyncio.sleep(0.01)
        thread.check(stall_s=0.5)
