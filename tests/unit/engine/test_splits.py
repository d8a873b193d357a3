"""Into how many calls rows are split, on plain values and a clock that calls move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from atelier.engine.splits import Splits, fastest_splits
from tests.engines import Clock


def _sizes(splits: Splits, num_rows: int) -> list[int]:
    """The number of rows of each call."""
    parts = splits.parts(num_rows)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(num_rows))
    return [part.stop - part.start for part in parts]


def _fastest(step_s: Callable[[int, int], float], *, num_parallel: int) -> Splits:
    """The splits that are found if steps take so many seconds."""
    clock = Clock()

    def step(num_rows: int, num_calls: int) -> None:
        clock.now_s += step_s(num_rows, num_calls)

    return fastest_splits(step, num_parallel, now_s=clock)


def test_rows_are_split_as_the_nearest_smaller_number_that_was_measured() -> None:
    splits = Splits({2: 1, 8: 2, 32: 4})
    assert _sizes(splits, 1) == [1]
    assert _sizes(splits, 7) == [7]
    assert _sizes(splits, 9) == [4, 5]
    assert _sizes(splits, 32) == [8, 8, 8, 8]


def test_calls_are_no_larger_than_the_largest_that_was_measured() -> None:
    assert _sizes(Splits({1: 1, 32: 2}), 64) == [16] * 4
    assert _sizes(Splits({1: 1, 32: 2}), 40) == [10] * 4
    assert _sizes(Splits({1: 1, 2: 2, 16: 2}), 40) == [6, 7, 7, 6, 7, 7]


def test_without_a_measurement_all_rows_are_one_call() -> None:
    assert _sizes(Splits({1: 1}), 40) == [40]


def test_a_call_has_a_row() -> None:
    assert _sizes(Splits({2: 2}), 1) == [1]


@pytest.mark.parametrize("slow", [1, 2])
def test_few_rows_are_split_by_a_rule_wherever_they_run(slow: int) -> None:
    """What is measured differs from replica to replica, and bits depend on the number of rows in a call."""
    splits = _fastest(lambda _, calls: 100.0 if calls == slow else 1.0, num_parallel=2)
    assert [_sizes(splits, num_rows) for num_rows in (1, 2, 9, 15)] == [[1], [1, 1], [4, 5], [7, 8]]
    assert _sizes(_fastest(lambda *_: 1.0, num_parallel=4), 3) == [3]
    assert _fastest(lambda *_: 1.0, num_parallel=24) == Splits({1: 1, 16: 1, 32: 24})


def test_the_fastest_number_of_calls_is_found_for_each_number_of_rows() -> None:
    splits = _fastest(lambda rows, calls: {(16, 2): 30.0, (32, 2): 20.0}.get((rows, calls), 24.0), num_parallel=2)
    assert splits == Splits({1: 1, 2: 2, 16: 1, 32: 2})


def test_four_calls_may_be_faster_than_two() -> None:
    assert _fastest(lambda _, calls: 10.0 / calls, num_parallel=2) == Splits({1: 1, 2: 2, 16: 2, 32: 4})


def test_calls_side_by_side_are_preferred_to_one_that_is_as_fast() -> None:
    assert _fastest(lambda _, calls: 100.0 + 2 * calls, num_parallel=2) == Splits({1: 1, 2: 2, 16: 2, 32: 2})


def test_a_device_that_runs_one_call_at_a_time_may_prefer_smaller_ones() -> None:
    splits = _fastest(lambda rows, calls: 10.0 if rows < 32 or calls == 2 else 20.0, num_parallel=1)
    assert splits == Splits({1: 1, 16: 1, 32: 2})


def test_steps_without_memory_are_left_out() -> None:
    def step(num_rows: int, num_calls: int) -> None:
        if num_rows / num_calls > 12:
            raise torch.OutOfMemoryError("no memory")

    assert fastest_splits(step, 1, now_s=Clock()) == Splits({1: 1, 16: 2})


def test_a_split_that_is_often_slow_is_not_the_fastest() -> None:
    times_s = iter([0.0, *[2.0, 9.0, 9.0], 0.0, *[5.0] * 3])
    splits = _fastest(lambda rows, _: next(times_s) if rows == 16 else 1.0, num_parallel=2)
    assert splits.num_calls[16] == 2
