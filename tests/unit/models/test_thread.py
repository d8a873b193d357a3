"""The thread of a model: work in steps, cancellation, and the check for stalled calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from atelier.core.errors import GenerationFailed, NotSupported, ReplicaLost
from atelier.models.thread import ModelThread, result_of


def _work(done: list[str], name: str, *, num_steps: int) -> Generator[None, None, str]:
    for step in range(num_steps):
        done.append(f"{name}{step}")
        yield
    return name


def test_result_is_what_the_generator_returns() -> None:
    assert result_of(_work([], "a", num_steps=3)) == "a"


async def test_calls_in_steps_take_turns() -> None:
    thread, done = ModelThread("test", num_threads=1), list[str]()
    names = await asyncio.gather(*(thread.run_in_steps(_work(done, name, num_steps=3)) for name in "ab"))
    assert names == ["a", "b"]
    assert done == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_no_step_runs_after_the_caller_is_cancelled() -> None:
    thread, go_on = ModelThread("test", num_threads=1), threading.Event()
    done: list[int] = []

    def work() -> Generator[None, None, None]:
        for step in range(1000):
            done.append(step)
            yield
            go_on.wait(timeout=10)

    waiting = asyncio.create_task(thread.run_in_steps(work()))
    while not done:  # noqa: ASYNC110 the thread sets no asyncio event
        await asyncio.sleep(0.001)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await thread.run_async(lambda: None)
    assert len(done) <= 2


class _Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_call_that_runs_too_long_fails_the_check_until_it_returns() -> None:
    clock, is_running, go_on = _Clock(), threading.Event(), threading.Event()
    thread = ModelThread("test", num_threads=1, now_s=clock)
    clock.now_s = 100.0
    thread.check(stall_s=10)

    def call() -> None:
        is_running.set()
        go_on.wait(timeout=10)

    answer = thread.submit(call)
    assert is_running.wait(timeout=10)
    clock.now_s = 110.0
    thread.check(stall_s=10)
    clock.now_s = 110.5
    with pytest.raises(TimeoutError, match="over 10 s"):
        thread.check(stall_s=10)
    go_on.set()
    answer.result(timeout=10)
    thread.check(stall_s=10)


async def test_steps_that_are_short_one_by_one_pass_the_check() -> None:
    clock = _Clock()
    thread = ModelThread("test", num_threads=1, now_s=clock)

    def work() -> Generator[None, None, int]:
        for _ in range(20):
            clock.now_s += 9.0
            thread.check(stall_s=10)
            yield
        return 20

    assert await thread.run_in_steps(work()) == 20
    assert clock.now_s == 180.0


def test_thread_survives_a_call_that_raises() -> None:
    thread = ModelThread("test", num_threads=1)

    def fail() -> None:
        raise ValueError("bad input")

    with pytest.raises(ValueError, match="bad input"):
        thread.run(fail)
    assert thread.run(lambda: 3) == 3


def _fail() -> None:
    raise RuntimeError("no GPU")


async def test_a_thread_whose_calls_all_fail_fails_the_check_until_one_succeeds() -> None:
    thread = ModelThread("test", num_threads=1)
    for kind in (GenerationFailed, GenerationFailed, ReplicaLost):
        thread.check(stall_s=10)
        with pytest.raises(kind, match="no GPU"):
            await thread.run_async(_fail)
    with pytest.raises(RuntimeError, match="last 3 model calls"):
        thread.check(stall_s=10)
    await thread.run_async(lambda: None)
    thread.check(stall_s=10)


async def test_our_own_errors_pass_as_they_are() -> None:
    def refuse() -> None:
        raise NotSupported("no depth maps", param="kind")

    thread = ModelThread("test", num_threads=1)
    for _ in range(4):
        with pytest.raises(NotSupported) as caught:
            await thread.run_async(refuse)
        assert caught.value.param == "kind"
    thread.check(stall_s=10)
