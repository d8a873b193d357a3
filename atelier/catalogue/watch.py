"""A view of files that change while the server runs, renewed when it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds between two looks at the files.
_LOOK_INTERVAL_S = 1.0


class Watch(Generic[T]):
    """Looks at files when it is asked, at most once a second. Thread-safe."""

    def __init__(self, look: Callable[[T | None], T], now_s: Callable[[], float] = time.monotonic) -> None:
        """`look` returns the view of the files; it is given the last one, and called by one thread at a time."""
        self._look = look
        self._now_s = now_s
        self._lock = threading.Lock()
        self._looked_s = 0.0
        self._view: T | None = None

    def view(self) -> T:
        """Return what was there at the last look; looks again if that is a second ago. Blocks."""
        # Only the first look is waited for: a slow disk must not hold up every thread of a Router.
        if self._lock.acquire(blocking=self._view is None):
            try:
                return self._renewed(_LOOK_INTERVAL_S)
            finally:
                self._lock.release()
        assert self._view is not None
        return self._view

    def anew(self, interval_s: float = 0.0) -> T:
        """Look again, unless the last look is less than `interval_s` ago, and return what is there. Blocks.

        Another process may have seen a file a moment before this one looks.
        """
        with self._lock:
            return self._renewed(interval_s)

    def _renewed(self, interval_s: float) -> T:
        now_s = self._now_s()
        if self._view is None or now_s - self._looked_s >= interval_s:
            self._looked_s = now_s
            self._view = self._look(self._view)
        return self._view
