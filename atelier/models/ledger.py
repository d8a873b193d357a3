"""The bytes on a device, by what holds them: modules, some of which are in use, and room for activations.

The ledger decides what must leave for something else to fit. It moves nothing itself, and knows no tensors.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Holding:
    num_bytes: int
    #: Whether it may leave while nobody uses it.
    can_leave: bool
    #: Whether it is a part of a base model, which an exclusive one excludes, and whether it is exclusive.
    is_model: bool
    is_exclusive: bool


class Ledger:
    """Who holds how many bytes of a budget, in the order of their last use. Not thread-safe."""

    def __init__(self, max_bytes: float = math.inf) -> None:
        self.max_bytes = max_bytes
        #: Most bytes that were held at once.
        self.peak_bytes = 0
        #: In the order of their last use, the latest one last.
        self._holdings: dict[str, _Holding] = {}
        self._uses: Counter[str] = Counter()

    def __contains__(self, name: str) -> bool:
        return name in self._holdings

    @property
    def num_bytes(self) -> int:
        """Number of bytes that are held now."""
        return sum(holding.num_bytes for holding in self._holdings.values())

    @property
    def names(self) -> list[str]:
        """Names of all holders, the least recently used one first."""
        return list(self._holdings)

    def hold(
        self,
        name: str,
        num_bytes: int,
        *,
        can_leave: bool = True,
        is_model: bool = False,
        is_exclusive: bool = False,
    ) -> None:
        """Record that `name` holds bytes from now on, whether they fit or not."""
        self._holdings[name] = _Holding(num_bytes, can_leave, is_model, is_exclusive)
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)

    def drop(self, name: str) -> None:
        """Record that `name` holds nothing any more."""
        del self._holdings[name]

    def use(self, name: str) -> None:
        """Record that a holder is used once more; until each use is over, it does not leave."""
        self._uses[name] += 1
        self._holdings[name] = self._holdings.pop(name)

    def end_use(self, name: str) -> None:
        """Record that one use of a holder is over."""
        self._uses[name] -= 1

    def is_used(self, name: str) -> bool:
        """Return whether a holder is in use."""
        return self._uses[name] > 0

    def leavers(self, num_bytes: int, *, is_model: bool = False, is_exclusive: bool = False) -> list[str] | None:
        """Return who must leave so that so many more bytes fit, the least recently used first; None if they cannot.

        A part of a base model (`is_model`) and an exclusive one exclude each other. ControlNets and activations stay
        beside both.
        """
        leaving = [
            name
            for name, holding in self._holdings.items()
            if is_model and holding.is_model and (is_exclusive or holding.is_exclusive)
        ]
        staying = [name for name in self._holdings if name not in leaving]
        excess = num_bytes + sum(self._holdings[name].num_bytes for name in staying) - self.max_bytes
        for name in staying:
            if excess <= 0:
                break
            if self._can_leave(name):
                leaving.append(name)
                excess -= self._holdings[name].num_bytes
        return leaving if excess <= 0 and all(self._can_leave(name) for name in leaving) else None

    def _can_leave(self, name: str) -> bool:
        return self._holdings[name].can_leave and not self.is_used(name)
