"""What LoRAs change in rows, by their slots."""

from __future__ import annotations

import torch

from atelier.families.unet.adapters.adapter import LowRank
from atelier.families.unet.adapters.rows import Merged, RowChanges, RowFactors, forms
from atelier.families.unet.adapters.slots import AdapterSlots

_BASE = torch.full((3, 2), 7.0)


def _layers(value: float, *names: str, rank: int) -> dict[str, LowRank | Merged]:
    return {name: LowRank(torch.full((rank, 3), value), torch.full((2, rank), value)) for name in names}


def _merged(value: float, name: str) -> dict[str, LowRank | Merged]:
    return {name: Merged(torch.full((3, 2), value), _BASE)}


def _factors(changes: RowChanges) -> RowFactors:
    assert changes.factors is not None
    return changes.factors


def _weights(changes: RowChanges) -> list[float]:
    """The first number of every row's weight."""
    assert changes.weights is not None
    weights: list[float] = changes.weights[:, 0, 0].tolist()
    return weights


def test_rows_read_their_own_factors_and_zeros_beyond_their_rank() -> None:
    slots, low, high = AdapterSlots(), _layers(1.0, "a", rank=1), _layers(2.0, "a", "b", rank=3)
    slots.write([0, 1], low)
    slots.write([2], high)
    changes = slots.read(slice(0, 3), [forms(low), forms(high)])
    assert _factors(changes["a"]).down[:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert _factors(changes["a"]).up[:, :, 1].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert _factors(changes["b"]).down[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 0], [2, 2, 2]]


def test_rows_read_their_own_weights_and_others_the_layers_own() -> None:
    slots, first, third = AdapterSlots(), _merged(1.0, "a"), _merged(3.0, "a")
    slots.write([0], first)
    slots.write([1], {})
    slots.write([2], third)
    changes = slots.read(slice(0, 3), [forms(first), {}, forms(third)])
    assert _weights(changes["a"]) == [1, 7, 3]
    assert changes["a"].factors is None


def test_a_layer_may_have_weights_in_one_row_and_factors_in_another() -> None:
    slots, merged, low = AdapterSlots(), _merged(1.0, "a"), _layers(2.0, "a", rank=2)
    slots.write([0], merged)
    slots.write([1], low)
    changes = slots.read(slice(0, 2), [forms(merged), forms(low)])
    assert _weights(changes["a"]) == [1, 7]
    assert _factors(changes["a"]).up[:, 0, 0].tolist() == [0, 2]


def test_rows_that_came_before_a_layer_was_changed_change_nothing() -> None:
    slots, merged, low = AdapterSlots(), _merged(1.0, "a"), _layers(2.0, "b", rank=2)
    slots.write([0, 1, 2, 3], {})
    slots.write([1], merged | low)
    changes = slots.read(slice(0, 4), [forms(merged | low)])
    assert _weights(changes["a"]) == [7, 1, 7, 7]
    assert _factors(changes["b"]).up[:, 0, 0].tolist() == [0, 2, 0, 0]


def test_a_row_in_the_slot_of_another_reads_nothing_of_it() -> None:
    slots, nan = AdapterSlots(), float("nan")
    slots.write([0, 1], _layers(nan, "a", "b", rank=4) | _merged(nan, "c"))
    slots.write([0], _layers(1.0, "a", rank=2))
    slots.write([1], {})
    changes = slots.read(slice(0, 2), [{"a": 4, "b": 4, "c": None}])
    assert _factors(changes["a"]).down[:, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert not _factors(changes["b"]).down.any()
    assert not _factors(changes["b"]).up.any()
    assert _weights(changes["c"]) == [7, 7]


def test_a_copied_slot_reads_as_its_source() -> None:
    slots, layers = AdapterSlots(), _layers(1.0, "a", rank=2) | _merged(2.0, "b")
    slots.write([0], layers)
    slots.copy(0, 5)
    changes = slots.read(torch.tensor([5, 0]), [forms(layers)])
    assert _factors(changes["a"]).up[:, 0, 0].tolist() == [1, 1]
    assert _weights(changes["b"]) == [2, 2]


def test_rows_without_loras_read_no_changes() -> None:
    slots = AdapterSlots()
    slots.write([0], {})
    slots.copy(0, 1)
    assert slots.read(slice(0, 2), [{}]) == {}


def test_factors_are_as_wide_as_the_ranks_that_are_left() -> None:
    slots, wide, narrow = AdapterSlots(), _layers(1.0, "a", rank=8), _layers(1.0, "a", rank=2)
    slots.write([0], wide)
    slots.write([1], narrow)
    assert _factors(slots.read(slice(1, 2), [forms(narrow)])["a"]).down.shape == (1, 2, 3)
