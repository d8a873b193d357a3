from __future__ import annotations

import math

import pytest

from atelier.core.errors import InvalidParameter
from atelier.core.params import ControlParams, GenerateParams, HiresStep, UpscaleStep, parse

_IMAGE = b"an image"


def _params(**fields: object) -> GenerateParams:
    return parse(GenerateParams, {"prompt": "x", **fields})


def test_a_prompt_is_enough() -> None:
    fields = dict(parse(GenerateParams, {"prompt": "a red circle"}))
    absent = {name for name, value in fields.items() if value is None}
    assert absent == {
        "model",
        "output_compression",
        "negative_prompt",
        "prompt_2",
        "negative_prompt_2",
        "num_inference_steps",
        "guidance_scale",
        "image_guidance_scale",
        "sampler",
        "schedule",
        "init_image",
        "mask_image",
        "markup_image",
        "strength",
        "hires",
        "upscale",
        "deadline_s",
    }
    assert {name: value for name, value in fields.items() if name not in absent} == {
        "prompt": "a red circle",
        "n": 1,
        "size": "auto",
        "output_format": "png",
        "priority": "standard",
        "cache": "auto",
        "seed": -1,
        "guidance_rescale": 0,
        "eta": 0,
        "controls": (),
        "loras": (),
        "reproducibility": "fast",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0),
        ("n", 11),
        ("n", 1.5),
        ("n", True),
        ("n", "2"),
        ("size", 128),
        ("size", "128x"),
        ("size", "-64x64"),
        ("size", "AUTO"),
        ("output_format", "gif"),
        ("output_compression", -1),
        ("output_compression", 101),
        ("seed", -2),
        ("seed", 2**32),
        ("seed", 1e300),
        ("num_inference_steps", 0),
        ("num_inference_steps", 151),
        ("guidance_scale", -0.1),
        ("guidance_scale", 30.1),
        ("guidance_scale", math.nan),
        ("guidance_scale", math.inf),
        ("guidance_scale", "5"),
        ("guidance_rescale", -0.1),
        ("guidance_rescale", 1.1),
        ("eta", -0.1),
        ("eta", 1.1),
        ("sampler", "k_euler"),
        ("schedule", "linear"),
        ("strength", 0),
        ("strength", 1.1),
        ("reproducibility", "always"),
        ("deadline_s", 0),
        ("deadline_s", 3600.1),
        ("model", "m" * 201),
    ],
)
def test_a_bad_value_is_refused_by_name_with_the_value(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _params(**{field: value})
    assert caught.value.param == field
    assert str(caught.value).startswith(field)
    assert repr(value)[:70] in str(caught.value)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("n", (1, 10)),
        ("size", ("auto", "1x1", "99999x99999")),
        ("output_format", ("png", "jpeg", "webp")),
        ("output_compression", (0, 100)),
        ("seed", (-1, 0, 4_294_967_295)),
        ("num_inference_steps", (1, 150)),
        ("guidance_scale", (0, 1.5, 30)),
        ("guidance_rescale", (0, 1)),
        ("eta", (0, 1)),
        ("sampler", ("euler", "euler_a", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "unipc", "heun")),
        ("schedule", ("normal", "karras", "exponential", "trailing", "linspace")),
        ("strength", (0.001, 1)),
        ("reproducibility", ("fast", "exact")),
        ("deadline_s", (0.001, 3600)),
        ("model", ("m" * 200,)),
        ("prompt", ("x" * 32_000,)),
        ("prompt_2", ("", "x" * 32_000)),
        ("negative_prompt", ("", "x" * 32_000)),
        ("negative_prompt_2", ("", "x" * 32_000)),
    ],
)
def test_values_up_to_the_bounds_are_taken(field: str, values: tuple[object, ...]) -> None:
    for value in values:
        assert getattr(_params(**{field: value}), field) == value


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_prompt_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="prompt: must contain more than white space") as caught:
        parse(GenerateParams, {"prompt": text})
    assert caught.value.param == "prompt"


def test_a_prompt_may_be_blank_with_an_init_image() -> None:
    assert parse(GenerateParams, {"prompt": "", "init_image": _IMAGE}).prompt == ""
    control = {"kind": "canny", "image": _IMAGE}
    with pytest.raises(InvalidParameter, match="white space"):
        parse(GenerateParams, {"prompt": "", "controls": [control]})


def test_a_prompt_may_be_blank_with_a_lora() -> None:
    """Its trigger words, or what it was trained on, say what to draw."""
    assert parse(GenerateParams, {"prompt": "", "loras": [{"model": "neon"}]}).prompt == ""
    with pytest.raises(InvalidParameter, match="without init_image or loras"):
        parse(GenerateParams, {"prompt": "", "loras": []})


def test_at_most_four_controls_are_taken() -> None:
    control = {"kind": "canny", "image": _IMAGE}
    assert len(_params(controls=[control] * 4).controls) == 4
    with pytest.raises(InvalidParameter) as caught:
        _params(controls=[control] * 5)
    assert caught.value.param == "controls"


def test_image_files_are_named_by_their_fields() -> None:
    assert _params().image_files == {}
    names = ("init_image", "mask_image", "markup_image")
    sent = _params(**dict.fromkeys(names, _IMAGE), controls=[{"kind": "canny", "image": _IMAGE}] * 2)
    assert list(sent.image_files) == [*names, "controls[0].image", "controls[1].image"]
    assert len(set(sent.image_files.values())) == 1


def test_equal_requests_are_equal_keys_and_others_are_not() -> None:
    fields: dict[str, object] = {"seed": 1, "init_image": _IMAGE, "controls": [{"kind": "canny", "image": _IMAGE}]}
    assert hash(_params(**fields)) == hash(_params(**fields))
    assert _params(**fields) == _params(**fields)
    loras: dict[str, object] = {"loras": [{"model": "neon"}]}
    for other in (loras, {"init_image": b"another"}, {"n": 2}, {"mask_image": _IMAGE}, {"negative_prompt": "y"}):
        assert _params(**fields) != _params(**{**fields, **other})


def test_serialised_params_leave_out_images_number_and_deadline() -> None:
    params = _params(n=3, deadline_s=5, init_image=_IMAGE, mask_image=_IMAGE, markup_image=_IMAGE, strength=0.5)
    assert params.model_dump(exclude_none=True) == {
        "prompt": "x",
        "size": "auto",
        "output_format": "png",
        "seed": -1,
        "strength": 0.5,
        "reproducibility": "fast",
    }


def test_serialised_params_keep_what_changes_the_images() -> None:
    params = _params(
        guidance_rescale=0.5,
        eta=0.25,
        controls=[{"kind": "canny", "image": _IMAGE}],
        hires={"scale": 1.5},
        upscale={"scale": 3},
    )
    dumped = params.model_dump(exclude_none=True)
    assert (dumped["guidance_rescale"], dumped["eta"]) == (0.5, 0.25)
    [control] = dumped["controls"]
    assert control["kind"] == "canny"
    assert dumped["hires"] == {"scale": 1.5, "strength": 0.5}
    assert dumped["upscale"] == {"scale": 3}


def test_parts_of_a_request_are_params_of_their_own() -> None:
    params = _params(controls=[{"model": "m", "image": "QQ=="}], hires={}, upscale={})
    assert params.controls == (ControlParams(model="m", image=b"A"),)
    assert params.hires == HiresStep(scale=2, strength=0.5)
    assert params.upscale == UpscaleStep(scale=4)
