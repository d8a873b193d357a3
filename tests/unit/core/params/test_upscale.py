from __future__ import annotations

import pytest

from atelier.core.errors import InvalidParameter
from atelier.core.params import HiresStep, Params, UpscaleParams, UpscaleStep, parse


def test_an_enlargement_is_fourfold_by_the_first_upscaler_by_default() -> None:
    assert dict(parse(UpscaleStep, {})) == {"scale": 4, "model": None}


def test_a_second_pass_is_twice_as_large_and_half_as_strong_by_default() -> None:
    assert dict(parse(HiresStep, {})) == {"scale": 2, "model": None, "strength": 0.5, "steps": None}


def test_an_enlarged_image_is_a_png_in_base64_by_default() -> None:
    assert dict(parse(UpscaleParams, {"image": b"x"})) == {
        "image": b"x",
        "scale": 4,
        "model": None,
        "output_format": "png",
        "output_compression": None,
        "response_format": "b64_json",
    }


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (UpscaleStep, "scale", 0.99),
        (UpscaleStep, "scale", 4.01),
        (UpscaleStep, "model", "m" * 201),
        (HiresStep, "scale", 1),
        (HiresStep, "scale", 4.01),
        (HiresStep, "strength", 0),
        (HiresStep, "strength", 1.01),
        (HiresStep, "steps", 0),
        (HiresStep, "steps", 151),
        (UpscaleParams, "response_format", "png"),
        (UpscaleParams, "output_format", "gif"),
        (UpscaleParams, "output_compression", 101),
    ],
)
def test_a_bad_value_is_refused_by_name(kind: type[Params], field: str, value: object) -> None:
    image = {"image": b"x"} if kind is UpscaleParams else {}
    with pytest.raises(InvalidParameter) as caught:
        parse(kind, {**image, field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        (UpscaleStep, "scale", (1, 4)),
        (HiresStep, "scale", (1.01, 4)),
        (HiresStep, "strength", (0.01, 1)),
        (HiresStep, "steps", (1, 150)),
        (UpscaleParams, "response_format", ("b64_json", "url")),
    ],
)
def test_values_up_to_the_bounds_are_taken(kind: type[Params], field: str, values: tuple[object, ...]) -> None:
    image = {"image": b"x"} if kind is UpscaleParams else {}
    for value in values:
        assert getattr(parse(kind, {**image, field: value}), field) == value
