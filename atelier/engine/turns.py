"""Whose turn it is among batches that cannot share a step: they share the time by weight, whatever a step costs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Keys that take turns. The next is the one that has had the least time for its weight since it came.

    A key that comes starts with as much as the one that has had the least, so that nobody saves up time while away.
    Source: start-time fair queueing (Goyal, Vin & Cheng 1996).
    """

    def __init__(self) -> None:
        #: Time that each key has had, in seconds divided by its weight; the key that took the last step is the last.
        self._used_s: dict[K, float] = {}
        self._weights: dict[K, float] = {}

    def join(self, key: K, weight: float = 1.0) -> None:
        """Let a key take turns. Does nothing if it does already."""
        if key not in self._used_s:
            self._used_s[key] = min(self._used_s.values(), default=0.0)
            self._weights[key] = weight

    def leave(self, key: K) -> None:
        """Take a key out, if it is there."""
        self._used_s.pop(key, None)
        self._weights.pop(key, None)

    def took(self, key: K, step_s: float) -> None:
        """Record the time of a key's step; nothing is recorded of a key that has left."""
        if key in self._used_s:
            self._used_s[key] = self._used_s.pop(key) + step_s / self._weights[key]

    def next(self, delay_s: Callable[[K], float] = lambda _: 0.0) -> K | None:
        """Return the key whose turn it is, or None if there is none; among equals, that of the longest wait.

        A key waits until others have had `delay_s` more than it, divided by its weight.
        """

        def used_s(key: K) -> float:
            return self._used_s[key] + delay_s(key) / self._weights[key]

        return min(self._used_s, key=used_s, default=None)
