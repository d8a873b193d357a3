"""Whose turn it is among batches that cannot share a step: time is shared equally, whatever a step costs."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Keys that take turns. The next is the one that has had the least time since it came.

    A key that comes starts with as much as the one that has had the least, so that nobody saves up time while away.
    Source: start-time fair queueing (Goyal, Vin & Cheng 1996), with equal weights.
    """

    def __init__(self) -> None:
        #: Time that each key has had, in seconds; the key that took the last step is the last.
        self._used_s: dict[K, float] = {}

    def join(self, key: K) -> None:
        """Let a key take turns. Does nothing if it does already."""
        self._used_s.setdefault(key, min(self._used_s.values(), default=0.0))

    def leave(self, key: K) -> None:
        """Take a key out, if it is there."""
        self._used_s.pop(key, None)

    def took(self, key: K, step_s: float) -> None:
        """Record the time of a key's step; nothing is recorded of a key that has left."""
        if key in self._used_s:
            self._used_s[key] = self._used_s.pop(key) + step_s

    def next(self) -> K | None:
        """Return the key whose turn it is, or None if there is none; among equals, that of the longest wait."""
        return min(self._used_s, key=self._used_s.__getitem__, default=None)
