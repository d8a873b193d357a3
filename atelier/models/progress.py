"""The progress of a download as lines, for logs."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from tqdm import tqdm


class ProgressLines(tqdm):  # type: ignore[misc] # tqdm has no types
    """A bar of tqdm that writes a line now and then, because logs do not show a line that is overwritten.

    It counts the bytes that have arrived; bars that count anything else are silent.
    """

    #: Shortest time between two lines.
    interval_s: ClassVar[float] = 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._last_line_s = time.monotonic()
        super().__init__(*args, **{**kwargs, "disable": kwargs.get("unit") != "B"})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # noqa: ARG002 as tqdm calls it
        """Write the bar as a line, unless nothing has arrived or the last line is too recent."""
        if self.n and time.monotonic() - self._last_line_s >= self.interval_s:
            self._last_line_s = time.monotonic()
            self.fp.write(f"  {msg or self}\n")
            self.fp.flush()
        return True

    def close(self) -> None:
        """End without a last line."""
        self.disable = True
