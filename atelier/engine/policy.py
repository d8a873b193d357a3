"""Which batch takes the next step, and who may join it. Plain values in and out; knows no tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")
R = TypeVar("R")


def next_key(last_step: Mapping[K, int]) -> K | None:
    """The key that has waited longest since its last step, so that every request moves equally often."""
    return min(last_step, key=lambda key: last_step[key], default=None)


def admissible(
    waiting: Iterable[R],
    num_rows: Mapping[K, int],
    *,
    key_of: Callable[[R], K],
    rows_of: Callable[[R], int],
    max_rows: int,
) -> Sequence[R]:
    """The waiting requests that fit their batches, first come first served within each key.

    `num_rows` tells how many rows of each key are in work. A request wider than `max_rows` gets a batch of its own.
    """
    taken: list[R] = []
    rows, full = dict(num_rows), set[K]()
    for request in waiting:
        key = key_of(request)
        total = rows.get(key, 0) + rows_of(request)
        if key in full or (total > max_rows and rows.get(key, 0) > 0):
            full.add(key)
            continue
        rows[key] = total
        taken.append(request)
    return taken
