"""Buffers with a slot per row, which grow without losing what is in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_MIN_SLOTS = 8


def capacity(num_slots: int, present: int) -> int:
    """Return a number of slots that holds so many: the present one, or at least twice as many."""
    return present if num_slots <= present else max(num_slots, 2 * present, _MIN_SLOTS)


def grown(buffer: torch.Tensor, shape: Sequence[int], *, fill: float = 0.0) -> torch.Tensor:
    """Return a larger buffer that begins with the contents of `buffer`; the rest is filled."""
    larger = buffer.new_full(tuple(shape), fill)
    larger[tuple(slice(length) for length in buffer.shape)] = buffer
    return larger
