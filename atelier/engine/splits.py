"""Into how many UNet calls a step's rows are split: what measured fastest when the model was loaded."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torch

#: Numbers of rows that are measured, in ascending order. Fewer rows are split by a rule, so that a request alone has
#: the same bits wherever it runs: into one call per core, or one in all if there are fewer rows than cores.
_NUMS_OF_ROWS = (16, 32)
#: Their times are added up, because a step in one call is often slow, not always, while other processes work.
_NUM_REPETITIONS = 3
#: More calls than run side by side are tried only if each has at least so many rows.
_MIN_ROWS = 8
#: Calls that run side by side are preferred to one if they take less than this, relative to it. They gain while the
#: graph works: with 16 clients on two cores, 10 to 20 % of the throughput.
_TOLERANCE = 1.15
#: Still more calls must take less than this, relative to those: measurements differ by as much.
_GAIN = 0.95


@dataclass(frozen=True, slots=True)
class Splits:
    """The number of calls by the number of rows from which on it is the fastest."""

    num_calls: Mapping[int, int]

    def parts(self, num_rows: int) -> list[slice]:
        """Return the rows of each call, as equal in number as possible."""
        measured = sorted(self.num_calls)
        nearest = measured[max(bisect_right(measured, num_rows) - 1, 0)]
        num_calls = self.num_calls[nearest]
        if nearest == measured[-1] > 1:
            # More rows than were measured are split further, so that no call is larger than those were.
            num_calls *= ceil(num_rows / nearest)
        return even_parts(num_rows, min(num_calls, num_rows))


def even_parts(num_rows: int, num_calls: int) -> list[slice]:
    """Split rows into calls whose numbers of rows differ by at most one."""
    ends = [num_rows * call // num_calls for call in range(num_calls + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def fastest_splits(
    step: Callable[[int, int], object], num_parallel: int, *, now_s: Callable[[], float] = time.perf_counter
) -> Splits:
    """Measure steps, and return the fastest splits.

    `step` takes a step with a number of rows in a number of calls, of which `num_parallel` run side by side. What the
    device has no memory for is left out.
    """
    found = {1: 1}
    if num_parallel < _NUMS_OF_ROWS[0]:
        found[num_parallel] = num_parallel
    for num_rows in _NUMS_OF_ROWS:
        taken_s = _times_s(step, num_rows, _candidates(num_rows, num_parallel), now_s)
        if taken_s:
            found[num_rows] = _fastest(taken_s, num_parallel)
    return Splits(found)


def _candidates(num_rows: int, num_parallel: int) -> list[int]:
    """Return the numbers of calls that are worth measuring."""
    nums = {1, num_parallel} | ({2 * num_parallel} if num_rows >= _MIN_ROWS * 2 * num_parallel else set())
    return sorted(num for num in nums if num <= num_rows)


def _times_s(
    step: Callable[[int, int], object], num_rows: int, nums_of_calls: Sequence[int], now_s: Callable[[], float]
) -> dict[int, float]:
    """Return the time of steps by their number of calls, without those that the device has no memory for."""
    taken_s: dict[int, float] = {}
    for num_calls in nums_of_calls:
        try:
            step(num_rows, num_calls)
            start_s = now_s()
            for _ in range(_NUM_REPETITIONS):
                step(num_rows, num_calls)
            taken_s[num_calls] = now_s() - start_s
        except torch.OutOfMemoryError:
            continue
    return taken_s


def _fastest(taken_s: Mapping[int, float], num_parallel: int) -> int:
    fewest, *more = sorted(taken_s)
    best = fewest
    for num_calls in more:
        bound = _TOLERANCE if num_calls == num_parallel else _GAIN
        if taken_s[num_calls] < bound * taken_s[best]:
            best = num_calls
    return best
