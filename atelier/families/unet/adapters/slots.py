"""Static buffers for what LoRAs change in a batch's rows, one slot per row; see `families.unet.slots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from atelier.families.unet.adapters.adapter import LowRank
from atelier.families.unet.adapters.rows import Forms, Merged, RequestLayers, RowAdapters, RowChanges, RowFactors
from atelier.families.unet.buffers import capacity, grown


class AdapterSlots:
    """Changes of rows by slot, for the layers that any row changes. Without LoRAs there are no buffers."""

    def __init__(self) -> None:
        #: Factors of all slots, by layer; their rank is the highest of the rows so far.
        self._factors: dict[str, RowFactors] = {}
        #: Weights of all slots, [slots, in, out], and the layer's own weight, by layer.
        self._weights: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, slots: Sequence[int], layers: RequestLayers) -> None:
        """Write the changes of rows with equal LoRAs into slots."""
        factors = {name: change for name, change in layers.items() if isinstance(change, LowRank)}
        merged = {name: change for name, change in layers.items() if isinstance(change, Merged)}
        self._grow(max(slots) + 1, factors, merged)
        weights = [merged[name].weight if name in merged else base for name, (_, base) in self._weights.items()]
        for slot in slots:
            _copy([of_slots[slot] for of_slots, _ in self._weights.values()], weights)
            self._write_factors(slot, factors)

    def copy(self, source: int, target: int) -> None:
        """Copy what is in one slot to another one, which may lie behind the last."""
        self._grow(target + 1, {}, {})
        buffers = [buffer for factors in self._factors.values() for buffer in (factors.down, factors.up)]
        buffers += [weights for weights, _ in self._weights.values()]
        _copy([buffer[target] for buffer in buffers], [buffer[source] for buffer in buffers])

    def read(self, slots: slice | torch.Tensor, forms: Sequence[Forms]) -> RowAdapters:
        """Return the changes in slots, whose requests have them in these forms: views for a slice.

        Frees the buffers of layers that no request changes any more.
        """
        named = [item for of_request in forms for item in of_request.items()]
        merged = {name for name, rank in named if rank is None}
        ranks: dict[str, int] = {}
        for name, rank in named:
            if rank is not None:
                ranks[name] = max(rank, ranks.get(name, 0))
        self._factors = {name: factors for name, factors in self._factors.items() if name in ranks}
        self._weights = {name: weights for name, weights in self._weights.items() if name in merged}
        # The last rows may have come before the layers' buffers; the new slots say that they change nothing.
        self._grow(slots.stop if isinstance(slots, slice) else int(slots.max()) + 1, {}, {})
        layers = dict.fromkeys([*self._factors, *self._weights])
        return {name: self._read_layer(name, slots, ranks.get(name)) for name in layers}

    def _read_layer(self, name: str, slots: slice | torch.Tensor, rank: int | None) -> RowChanges:
        weights = self._weights[name][0][slots] if name in self._weights else None
        if rank is None:
            return RowChanges(weights)
        factors = self._factors[name]
        return RowChanges(weights, RowFactors(factors.down[slots, :rank], factors.up[slots, :rank]))

    def _write_factors(self, slot: int, layers: Mapping[str, LowRank]) -> None:
        for name, buffers in self._factors.items():
            rank = layers[name].rank if name in layers else 0
            buffers.down[slot, rank:], buffers.up[slot, rank:] = 0, 0
        down = [self._factors[name].down[slot, : change.rank] for name, change in layers.items()]
        up = [self._factors[name].up[slot, : change.rank] for name, change in layers.items()]
        _copy(
            [*down, *up], [*(change.down for change in layers.values()), *(change.up.T for change in layers.values())]
        )

    def _grow(self, num_slots: int, factors: Mapping[str, LowRank], merged: Mapping[str, Merged]) -> None:
        """Make room for so many slots, and for these changes; if it fails, the buffers stay as they were."""
        grown_factors = {
            name: _grown_factors(self._factors.get(name), num_slots, factors.get(name))
            for name in dict.fromkeys([*self._factors, *factors])
        }
        grown_weights = dict(self._weights)
        for name in dict.fromkeys([*self._weights, *merged]):
            of_slots, base = self._weights[name] if name in self._weights else (None, merged[name].base)
            grown_weights[name] = _grown_weights(of_slots, num_slots, base), base
        self._factors, self._weights = grown_factors, grown_weights


def _grown_factors(old: RowFactors | None, num_slots: int, change: LowRank | None) -> RowFactors:
    """Return factors with room for so many slots and for the rank of a change; new ones are zeros."""
    if old is None:
        assert change is not None, "a layer without buffers has a change"
        old = RowFactors(change.down[None][:0], change.up.T[None][:0])
    present, old_rank = old.down.shape[:2]
    needed = capacity(num_slots, present), old_rank if change is None else max(old_rank, change.rank)
    if needed == (present, old_rank):
        return old
    return RowFactors(grown(old.down, (*needed, *old.down.shape[2:])), grown(old.up, (*needed, old.up.shape[2])))


def _grown_weights(old: torch.Tensor | None, num_slots: int, base: torch.Tensor) -> torch.Tensor:
    """Return weights with room for so many slots; new ones are the layer's own."""
    present = 0 if old is None else len(old)
    if old is not None and num_slots <= present:
        return old
    weights = base.repeat(capacity(num_slots, present), 1, 1)
    if old is not None:
        weights[:present] = old
    return weights


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
