"""Decides which waiting requests are admitted; computes on plain values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

R = TypeVar("R")


def admissible(
    waiting: Iterable[R],
    running_cost: float,
    *,
    is_ready: Callable[[R], bool],
    cost_of: Callable[[R], float],
    max_cost: float,
) -> Sequence[R]:
    """Return the waiting requests that fit beside those that run, first come first served.

    Requests that are not ready are passed over. A request that costs more than `max_cost` is admitted when nothing
    else runs.
    """
    admitted: list[R] = []
    total = running_cost
    for request in filter(is_ready, waiting):
        cost = cost_of(request)
        if total > 0 and total + cost > max_cost:
            break
        total += cost
        admitted.append(request)
    return admitted
