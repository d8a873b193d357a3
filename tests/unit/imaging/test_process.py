"""The process for images. Its calls are functions of the standard library, which both processes can import."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from atelier.core.errors import InvalidParameter, TooMuchWork
from atelier.imaging.inputs import image_size
from atelier.imaging.process import MAX_BYTES, ImageProcess

_WAIT_S = 30
_CPU_S = 10
_PROCESS = ImageProcess("test")
_DIES_WITH_A_PROCESS = """
import asyncio, os
from atelier.imaging.process import ImageProcess
print(asyncio.run(ImageProcess("test").run(9, os.getpid)), flush=True)
os.kill(os.getpid(), 9)
"""


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _WAIT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _wait_until_ended(pid: int) -> None:
    _wait_until(lambda: _has_ended(pid))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def _running_call(folder: Path) -> asyncio.Task[object]:
    """Start a call that ends when the file `end` exists, and return when it runs."""
    code = (
        "[(folder / 'started').touch()]"
        " + [__import__('time').sleep(0.01) for _ in iter(lambda: (folder / 'end').exists(), True)]"
    )
    call = asyncio.create_task(_PROCESS.run(_CPU_S, eval, code, {"folder": folder}))
    await asyncio.to_thread(_wait_until, (folder / "started").exists)
    return call


async def test_calls_run_in_one_other_process() -> None:
    assert await _PROCESS.run(_CPU_S, divmod, 7, 3) == (2, 1)
    assert await _PROCESS.run(_CPU_S, sorted, [2, 3, 1], reverse=True) == [3, 2, 1]
    first, second = await asyncio.gather(_PROCESS.run(_CPU_S, os.getpid), _PROCESS.run(_CPU_S, os.getpid))
    assert first == second != os.getpid()


async def test_errors_are_passed_on() -> None:
    with pytest.raises(InvalidParameter, match="mask: not a readable image") as caught:
        await _PROCESS.run(_CPU_S, image_size, b"x", param="mask")
    assert caught.value.param == "mask"
    with pytest.raises(ZeroDivisionError):
        await _PROCESS.run(_CPU_S, divmod, 1, 0)
    assert await _PROCESS.run(_CPU_S, divmod, 7, 3) == (2, 1)


class _SlowToLoad:
    """Unpickling it takes a second of CPU time."""

    def __reduce__(self) -> tuple[object, ...]:
        return sum, (range(6 * 10**7),)


async def test_the_time_of_a_call_ends_with_it() -> None:
    await _PROCESS.run(0.1, divmod, 7, 3)
    assert await _PROCESS.run(_CPU_S, str, _SlowToLoad()) == str(sum(range(6 * 10**7)))


async def test_the_process_has_its_niceness() -> None:
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    process = ImageProcess("nice", niceness=7)
    assert await process.run(_CPU_S, os.getpriority, os.PRIO_PROCESS, 0) == min(niceness + 7, 19)


async def test_being_cancelled_ends_the_process(tmp_path: Path) -> None:
    pid = await _PROCESS.run(_CPU_S, os.getpid)
    call = await _running_call(tmp_path)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(_wait_until_ended, pid)
    assert await _PROCESS.run(_CPU_S, os.getpid) != pid


async def test_a_cancelled_call_that_waits_does_not_end_the_one_that_runs(tmp_path: Path) -> None:
    running = await _running_call(tmp_path)
    waiting = asyncio.create_task(_PROCESS.run(_CPU_S, os.getpid))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread((tmp_path / "end").touch)
    assert isinstance(await running, list)


async def test_a_call_that_takes_too_much_time_is_ended() -> None:
    with pytest.raises(TooMuchWork, match="too much time or memory"):
        await _PROCESS.run(0.2, pow, 3, 10**9)
    assert await _PROCESS.run(_CPU_S, divmod, 7, 3) == (2, 1)


async def test_a_call_that_takes_too_much_memory_is_refused() -> None:
    with pytest.raises(TooMuchWork, match="too much time or memory"):
        await _PROCESS.run(_CPU_S, bytes, MAX_BYTES)
    assert await _PROCESS.run(_CPU_S, divmod, 7, 3) == (2, 1)


async def test_a_process_that_was_ended_from_outside_is_started_again() -> None:
    pid = await _PROCESS.run(_CPU_S, os.getpid)
    psutil.Process(pid).kill()
    await asyncio.to_thread(_wait_until_ended, pid)
    assert await _PROCESS.run(_CPU_S, os.getpid) != pid


def test_the_process_ends_with_the_one_that_started_it() -> None:
    run = subprocess.run([sys.executable, "-c", _DIES_WITH_A_PROCESS], stdout=subprocess.PIPE, check=False)
    _wait_until_ended(int(run.stdout))
