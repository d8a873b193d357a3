"""The largest number of rows in a UNet call: the one that measured fastest when the model was loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

#: Numbers of rows that are tried, in ascending order; the first is that of one guided image.
WIDTHS = (2, 8, 16, 32)
_NUM_REPETITIONS = 2
#: A wider call is preferred if a row takes at most this, relative to the fastest: measurements differ by as much.
_TOLERANCE = 1.05


def fastest_width(
    call: Callable[[int], object],
    *,
    widths: Sequence[int] = WIDTHS,
    now_s: Callable[[], float] = time.perf_counter,
) -> int:
    """Return how many rows a call should have at most for a row to take the least time.

    `call` runs the model on a number of rows and returns when it is done. The first width is taken to fit into the
    device's memory; wider calls for which there is no room are left out.
    """
    row_s: dict[int, float] = {}
    for width in widths:
        try:
            call(width)
            row_s[width] = min(_time_s(call, width, now_s) for _ in range(_NUM_REPETITIONS)) / width
        except torch.OutOfMemoryError:
            if not row_s:
                raise
            break
    fastest_s = min(row_s.values())
    return max(width for width, taken_s in row_s.items() if taken_s <= _TOLERANCE * fastest_s)


def _time_s(call: Callable[[int], object], width: int, now_s: Callable[[], float]) -> float:
    start_s = now_s()
    call(width)
    return now_s() - start_s
