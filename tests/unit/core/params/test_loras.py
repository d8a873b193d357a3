from __future__ import annotations

import pytest

from atelier.core.errors import InvalidParameter, UnknownParameter
from atelier.core.params import GenerateParams, LoraParams, parse


def _loras(*loras: object) -> tuple[LoraParams, ...]:
    return parse(GenerateParams, {"prompt": "x", "loras": list(loras)}).loras


def test_a_lora_is_named_by_model_or_name() -> None:
    assert _loras({"model": "neon"}, {"name": "pastel", "weight": 0.5}) == (
        LoraParams(model="neon"),
        LoraParams(name="pastel", weight=0.5),
    )


@pytest.mark.parametrize("weight", [-4, 0, 0.8, 4])
def test_weights_up_to_the_bounds_are_taken(weight: float) -> None:
    assert _loras({"model": "neon", "weight": weight})[0].weight == weight


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        ({}, "loras[0]"),
        ({"weight": 1}, "loras[0]"),
        ({"model": "a", "name": "a"}, "loras[0]"),
        ({"model": 5}, "loras[0].model"),
        ({"name": []}, "loras[0].name"),
        ({"model": "m" * 201}, "loras[0].model"),
        ({"model": "a", "weight": 4.01}, "loras[0].weight"),
        ({"model": "a", "weight": -4.01}, "loras[0].weight"),
        ({"model": "a", "weight": float("nan")}, "loras[0].weight"),
        ({"model": "a", "weight": float("inf")}, "loras[0].weight"),
        ({"model": "a", "weight": "1"}, "loras[0].weight"),
        ({"model": "a", "weight": True}, "loras[0].weight"),
        ("neon", "loras[0]"),
    ],
)
def test_a_lora_that_makes_no_sense_is_refused_by_name(lora: object, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _loras(lora)
    assert caught.value.param == param


@pytest.mark.parametrize("loras", ["neon", {"model": "neon"}, 5, True])
def test_loras_are_a_list(loras: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(GenerateParams, {"prompt": "x", "loras": loras})
    assert caught.value.param == "loras"


def test_another_name_of_the_weight_is_answered_with_ours() -> None:
    with pytest.raises(UnknownParameter, match="Did you mean 'weight'") as caught:
        _loras({"model": "neon", "scale": 1})
    assert caught.value.param == "loras[0].scale"


def test_at_most_eight_loras_are_taken() -> None:
    loras = [{"model": f"lora-{index}"} for index in range(9)]
    assert len(_loras(*loras[:8])) == 8
    with pytest.raises(InvalidParameter, match="must have at most 8 items, not 9") as caught:
        _loras(*loras)
    assert caught.value.param == "loras"
    with pytest.raises(InvalidParameter, match="at most 8 items, not 1000000"):
        _loras(*[[]] * 1_000_000)


def test_loras_are_serialised_if_there_are_any() -> None:
    params = parse(GenerateParams, {"prompt": "x", "loras": [{"name": "neon", "weight": 1}]})
    assert params.model_dump(exclude_none=True)["loras"] == ({"name": "neon", "weight": 1.0},)
    assert "loras" not in parse(GenerateParams, {"prompt": "x", "loras": []}).model_dump()
