"""How long steps take, learned from those that were taken."""

from __future__ import annotations

from atelier.core.work import StepTime

#: A step counts half as much in the fit after so many others.
_HALF_LIFE = 200
_DECAY = 0.5 ** (1 / _HALF_LIFE)
#: Share of the mean step that a step without rows would take, as long as all steps have had equal numbers of rows.
_FIXED_SHARE = 0.25


class StepTimes:
    """A line through the times of steps by their pixel rows: least squares, in which late steps count more.

    One made-up step without rows takes part, so that there is a line at any time.
    """

    def __init__(self) -> None:
        self._num = self._rows = self._seconds = self._rows_rows = self._rows_seconds = 0.0

    def add(self, pixel_rows: float, step_s: float) -> None:
        """Record a step."""
        terms = (1.0, pixel_rows, step_s, pixel_rows**2, pixel_rows * step_s)
        sums = (self._num, self._rows, self._seconds, self._rows_rows, self._rows_seconds)
        self._num, self._rows, self._seconds, self._rows_rows, self._rows_seconds = (
            _DECAY * total + term for total, term in zip(sums, terms, strict=True)
        )

    def fit(self) -> StepTime | None:
        """Return the line, which rises and has no negative values; None if there was no step."""
        if not self._rows:
            return None
        num = self._num + 1
        mean_rows = self._rows / num
        mean_s = (self._seconds + _FIXED_SHARE * self._seconds / self._num) / num
        slope = (self._rows_seconds - num * mean_rows * mean_s) / (self._rows_rows - num * mean_rows**2)
        slope = min(max(slope, 0.0), mean_s / mean_rows)
        return StepTime(fixed_s=mean_s - slope * mean_rows, pixel_row_s=slope)
