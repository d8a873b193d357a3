"""Static buffers for the LoRA factors of a batch's rows, one slot per row; see `families.sdxl.slots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atelier.families.sdxl.adapters.adapter import Layers, LowRank
from atelier.families.sdxl.adapters.rows import RowAdapters, RowFactors


class AdapterSlots:
    """Factors of rows by slot, for the layers that any row changes. Without LoRAs there are no buffers."""

    def __init__(self) -> None:
        #: Factors of all slots, by layer; `rank` is the highest of the rows so far.
        self._buffers: dict[str, RowFactors] = {}

    def write(self, slots: Sequence[int], layers: Layers) -> None:
        """Write the factors of rows with equal LoRAs into slots."""
        self._buffers = self._grown(max(slots) + 1, layers)
        for slot in slots:
            for name, factors in self._buffers.items():
                rank = layers[name].rank if name in layers else 0
                factors.down[slot, rank:], factors.up[slot, rank:] = 0, 0
            targets = [self._buffers[name] for name in layers]
            ranks = [change.rank for change in layers.values()]
            _copy(
                [factors.down[slot, :rank] for factors, rank in zip(targets, ranks, strict=True)],
                [change.down for change in layers.values()],
            )
            _copy(
                [factors.up[slot, :rank] for factors, rank in zip(targets, ranks, strict=True)],
                [change.up.T for change in layers.values()],
            )

    def copy(self, source: int, target: int) -> None:
        """Copy what is in one slot to another one, which may lie behind the last."""
        self._buffers = self._grown(target + 1, {})
        buffers = [buffer for factors in self._buffers.values() for buffer in (factors.down, factors.up)]
        _copy([buffer[target] for buffer in buffers], [buffer[source] for buffer in buffers])

    def read(self, slots: slice | torch.Tensor, ranks: Mapping[str, int]) -> RowAdapters:
        """Return the factors of slots in the layers of `ranks`, up to these ranks: views for a slice.

        Frees the buffers if there are no such layers.
        """
        if not ranks:
            self._buffers = {}
        return {
            name: RowFactors(self._buffers[name].down[slots, :rank], self._buffers[name].up[slots, :rank])
            for name, rank in ranks.items()
        }

    def _grown(self, num_slots: int, layers: Layers) -> dict[str, RowFactors]:
        """Return buffers with room for so many slots, and for these factors."""
        grown = dict(self._buffers)
        for name in dict.fromkeys([*self._buffers, *layers]):
            old = self._buffers.get(name) or _none_like(layers[name])
            capacity, rank = old.down.shape[:2]
            rank = max(rank, layers[name].rank if name in layers else 0)
            if num_slots > capacity or rank > old.down.shape[1]:
                capacity = capacity if num_slots <= capacity else max(num_slots, 2 * capacity)
                grown[name] = RowFactors(_padded(old.down, capacity, rank), _padded(old.up, capacity, rank))
        return grown


def _none_like(change: LowRank) -> RowFactors:
    """Return factors of no row, for the layer of a change."""
    return RowFactors(
        change.down.new_empty((0, 0, *change.down.shape[1:])), change.up.new_empty((0, 0, len(change.up)))
    )


def _padded(buffer: torch.Tensor, num_slots: int, rank: int) -> torch.Tensor:
    padded = buffer.new_zeros((num_slots, rank, *buffer.shape[2:]))
    padded[: buffer.shape[0], : buffer.shape[1]] = buffer
    return padded


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
