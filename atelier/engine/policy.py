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
    num_rows: Mapping[K, int],
    *,
    key_of: Callable[[R], K],
    rows_of: Callable[[R], int],
    max_rows: int,
) -> Sequence[R]:
    """Return the waiting requests that fit their batches, first come first served within each key.

    `num_rows` is the number of running rows (one per image and prompt role) of each key. A request wider
    than `max_rows` gets a batch of its own.
    """
    admitted: list[R] = []
    rows, full = dict(num_rows), set[K]()
    for request in waiting:
        key = key_of(request)
        total = rows.get(key, 0) + rows_of(request)
        if key in full or (total > max_rows and rows.get(key, 0) > 0):
            full.add(key)
            continue
        rows[key] = total
        admitted.append(request)
    return admitted
