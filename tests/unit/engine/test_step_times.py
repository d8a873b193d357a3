"""The line through the times of steps, on times that the test makes up."""

from __future__ import annotations

import pytest

from atelier.core.work import StepTime
from atelier.engine.step_times import StepTimes


def _fit(*steps: tuple[float, float], times: int = 1) -> StepTime:
    step_times = StepTimes()
    for _ in range(times):
        for pixel_rows, step_s in steps:
            step_times.add(pixel_rows, step_s)
    fitted = step_times.fit()
    assert fitted is not None
    return fitted


def test_the_line_is_found_from_steps_of_different_sizes() -> None:
    fitted = _fit(*[(rows, 0.004 + 1e-6 * rows) for rows in (1000, 8000, 32000)], times=200)
    for rows in (500, 16000, 64000):
        assert fitted.of(rows) == pytest.approx(0.004 + 1e-6 * rows, rel=0.05)


def test_late_steps_count_more() -> None:
    step_times = StepTimes()
    for slope in (5e-6, 1e-6):
        for _ in range(1000):
            for rows in (1000, 8000):
                step_times.add(rows, 0.004 + slope * rows)
    fitted = step_times.fit()
    assert fitted is not None
    assert fitted.of(8000) == pytest.approx(0.012, rel=0.05)


def test_steps_of_one_size_are_known_and_others_are_guessed_between_none_and_in_proportion() -> None:
    fitted = _fit((1000, 0.01), times=500)
    assert fitted.of(1000) == pytest.approx(0.01, rel=0.05)
    assert 0.01 < fitted.of(2000) < 0.02
    assert 0 < fitted.fixed_s < 0.01


@pytest.mark.parametrize("steps", [[(1000, 0.02), (8000, 0.01)], [(1000, 0.001), (8000, 0.1)]])
def test_a_line_neither_falls_nor_is_negative(steps: list[tuple[float, float]]) -> None:
    fitted = _fit(*steps, times=50)
    assert fitted.fixed_s >= 0
    assert fitted.pixel_row_s >= 0


def test_without_a_step_nothing_is_known() -> None:
    assert StepTimes().fit() is None
