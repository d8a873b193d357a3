from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from atelier.engine.widths import fastest_width
from tests.engines import Clock


def _fastest(seconds: Mapping[int, float | None]) -> int:
    """The chosen width, if calls of these widths take so many seconds; None is a call that finds no memory."""
    clock = Clock()

    def call(width: int) -> None:
        taken_s = seconds[width]
        if taken_s is None:
            raise torch.OutOfMemoryError("no memory")
        clock.now_s += taken_s

    return fastest_width(call, widths=list(seconds), now_s=clock)


def test_the_width_with_the_least_time_per_row_is_chosen() -> None:
    assert _fastest({8: 8.0, 16: 12.0, 32: 40.0}) == 16
    assert _fastest({8: 4.0, 16: 12.0, 32: 40.0}) == 8


def test_a_wider_call_that_is_as_fast_is_preferred() -> None:
    assert _fastest({8: 8.0, 16: 16.0, 32: 33.0}) == 32
    assert _fastest({8: 8.0, 16: 16.0, 32: 36.0}) == 16


def test_widths_without_memory_are_left_out() -> None:
    assert _fastest({8: 8.0, 16: 12.0, 32: None}) == 16


def test_a_device_without_memory_for_the_first_width_cannot_serve_the_model() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _fastest({8: None, 16: 12.0})


def test_a_call_that_is_slow_once_counts_by_its_better_time() -> None:
    clock, times_s = Clock(), iter([1.0, 9.0, 8.0, 1.0, 16.0, 30.0])

    def call(_: int) -> None:
        clock.now_s += next(times_s)

    assert fastest_width(call, widths=[8, 16], now_s=clock) == 16
