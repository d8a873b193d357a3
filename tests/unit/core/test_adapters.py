from __future__ import annotations

from dataclasses import replace

import pytest

from atelier.core.adapters import Lora, in_order
from tests.unit.engine.requests import new_request


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 4.01, -4.01])
def test_weights_are_numbers_within_their_range(weight: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        Lora("a", weight)


def test_loras_act_in_the_order_of_their_ids_and_not_at_weight_zero() -> None:
    assert in_order([Lora("b", 1.0), Lora("c", 0.0), Lora("a", -4.0)]) == (Lora("a", -4.0), Lora("b", 1.0))


@pytest.mark.parametrize(
    "loras",
    [(Lora("b", 1.0), Lora("a", 1.0)), (Lora("a", 1.0), Lora("a", 2.0)), (Lora("a", 0.0),)],
    ids=["order", "twice", "zero"],
)
def test_a_pass_has_every_lora_once_and_in_order(loras: tuple[Lora, ...]) -> None:
    with pytest.raises(ValueError, match="not in their order"):
        replace(new_request().pass_, loras=loras)
