"""Decides which batch takes the next step, and which waiting requests are admitted; computes on plain values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")
R = TypeVar("R")


def next_key(last_step: Mapping[K, int]) -> K | None:
    """Return the batch key whose last step is longest ago, so that batches take turns; None if there are no keys."""
    return min(last_step, key=lambda key: last_step[key], default=None)


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
