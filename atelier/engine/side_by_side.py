"""Runs the UNet calls of a step side by side on the CPU, each in a thread of its own.

One call on several cores waits for its slowest core after every operation, hundreds of times per step, and loses much
of a core while another process uses it. Calls side by side wait for each other once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

R = TypeVar("R")


class SideBySide:
    """Threads with one OpenMP thread each."""

    def __init__(self, num_threads: int) -> None:
        self._threads = ThreadPoolExecutor(num_threads, "unet", initializer=torch.set_num_threads, initargs=(1,))

    def map(self, calls: Sequence[Callable[[], R]]) -> list[R]:
        """Run calls at the same time, and return their results in order.

        When all have ended, raises the error of the first that failed.
        """
        running = [self._threads.submit(call) for call in calls]
        wait(running)
        return [ended.result() for ended in running]
