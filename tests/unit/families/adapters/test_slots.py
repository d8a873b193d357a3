"""The LoRA factors of rows in slots."""

from __future__ import annotations

import torch

from atelier.families.sdxl.adapters.adapter import Layers, LowRank
from atelier.families.sdxl.adapters.slots import AdapterSlots


def _layers(value: float, *names: str, rank: int) -> Layers:
    return {name: LowRank(torch.full((rank, 3), value), torch.full((2, rank), value)) for name in names}


def test_rows_read_their_own_factors_and_zeros_beyond_their_rank() -> None:
    slots = AdapterSlots()
    slots.write([0, 1], _layers(1.0, "a", rank=1))
    slots.write([2], _layers(2.0, "a", "b", rank=3))
    factors = slots.read(slice(0, 3), {"a": 3, "b": 3})
    assert factors["a"].down[:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert factors["a"].up[:, :, 1].tolist() == [[1, 0, 0], [1, 0, 0], [2, 2, 2]]
    assert factors["b"].down[:, :, 0].tolist() == [[0, 0, 0], [0, 0, 0], [2, 2, 2]]


def test_a_row_in_the_slot_of_another_reads_nothing_of_it() -> None:
    slots = AdapterSlots()
    slots.write([0], _layers(float("nan"), "a", "b", rank=4))
    slots.write([0], _layers(1.0, "a", rank=2))
    slots.write([1], {})
    factors = slots.read(slice(0, 2), {"a": 4, "b": 4})
    assert factors["a"].down[:, :, 0].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert not factors["b"].down.any()
    assert not factors["b"].up.any()


def test_a_copied_slot_reads_as_its_source() -> None:
    slots = AdapterSlots()
    slots.write([0], _layers(1.0, "a", rank=2))
    slots.copy(0, 5)
    factors = slots.read(torch.tensor([5, 0]), {"a": 2})
    assert torch.equal(factors["a"].up[0], factors["a"].up[1])
    assert factors["a"].up[0].all()


def test_rows_without_loras_read_no_factors() -> None:
    slots = AdapterSlots()
    slots.write([0], {})
    slots.copy(0, 1)
    assert slots.read(slice(0, 2), {}) == {}


def test_factors_are_as_wide_as_the_ranks_that_are_left() -> None:
    slots = AdapterSlots()
    slots.write([0], _layers(1.0, "a", rank=8))
    slots.write([1], _layers(1.0, "a", rank=2))
    assert slots.read(slice(1, 2), {"a": 2})["a"].down.shape == (1, 2, 3)
