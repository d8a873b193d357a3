from __future__ import annotations

from random import Random

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts, Text
from atelier.core.errors import InvalidParameter, ModelNotFound, TooMuchWork
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, UpscaleStep, parse
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.resolve import Plan, resolve
from atelier.pipeline.upscaling import resolve_upscale


def _plan(catalogue: Catalogue, **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", **fields})
    return resolve(params, InputSizes(), catalogue, max_pixel_steps=10_000_000, random=Random(0))


def test_the_models_defaults_are_filled_in(catalogue: Catalogue) -> None:
    plan = _plan(catalogue)
    [only] = plan.passes
    assert (only.model, str(only.size), only.sampling.num_inference_steps, only.guidance_scale) == (
        "tiny-sdxl",
        "128x128",
        20,
        5.0,
    )
    params = plan.params
    assert (params.model, params.size, params.num_inference_steps, params.guidance_scale) == (
        "tiny-sdxl",
        "128x128",
        20,
        5.0,
    )


def test_a_zero_is_not_an_absent_value(catalogue: Catalogue) -> None:
    assert _plan(catalogue, guidance_scale=0).passes[0].guidance_scale == 0
    assert _plan(catalogue, seed=0).seeds == (0,)


def test_each_picture_has_the_next_seed(catalogue: Catalogue) -> None:
    assert _plan(catalogue, seed=41, n=3).seeds == (41, 42, 43)


def test_every_picture_has_a_seed_that_can_be_sent_back(catalogue: Catalogue) -> None:
    assert _plan(catalogue, seed=2**32 - 2, n=2).seeds == (2**32 - 2, 2**32 - 1)
    with pytest.raises(InvalidParameter, match="2 images take as many seeds") as caught:
        _plan(catalogue, seed=2**32 - 1, n=2)
    assert caught.value.param == "seed"


def test_no_seed_draws_one(catalogue: Catalogue) -> None:
    assert _plan(catalogue).seeds == _plan(catalogue, seed=-1).seeds == (Random(0).randint(0, 2**32 - 1),)


def test_no_negative_prompt_is_not_an_empty_one(catalogue: Catalogue) -> None:
    def negative(**fields: object) -> Text | None:
        return _plan(catalogue, **fields).prompts.negative

    assert negative() is None
    assert negative(negative_prompt="") == Text("", "")
    assert negative(negative_prompt="a") == Text("a", "a")
    assert negative(negative_prompt="a", negative_prompt_2="b") == Text("a", "b")


def test_without_guidance_no_negative_prompt_is_encoded_but_it_is_recorded(catalogue: Catalogue) -> None:
    plan = _plan(catalogue, negative_prompt="a", guidance_scale=1, prompt_2="y")
    assert plan.prompts == Prompts(positive=Text("x", "y"), negative=None)
    assert plan.parameters(1)["negative_prompt"] == "a"


@pytest.mark.parametrize("size", ["128", "128x", "0x128", "128x100", "56x128", "264x128", "-64x64", "128x128x3"])
def test_a_size_the_model_does_not_draw_is_refused(catalogue: Catalogue, size: str) -> None:
    with pytest.raises(InvalidParameter, match=size) as caught:
        _plan(catalogue, size=size)
    assert caught.value.param == "size"


def test_too_much_work_is_refused_with_the_numbers(catalogue: Catalogue) -> None:
    assert _plan(catalogue, size="256x256", num_inference_steps=150).passes[0].pixel_steps == 256 * 256 * 150
    with pytest.raises(TooMuchWork, match="19660800 pixel steps; at most 10000000"):
        _plan(catalogue, size="256x256", num_inference_steps=150, n=2)


def test_an_unknown_model_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ModelNotFound):
        _plan(catalogue, model="nope")


def test_parameters_sent_back_make_the_same_plan(catalogue: Catalogue) -> None:
    plan = _plan(catalogue, negative_prompt="n", prompt_2="p2", size="64x96", output_format="webp", seed=9)
    assert _plan(catalogue, **plan.parameters(9)) == plan


@pytest.mark.parametrize(
    ("fields", "param", "allowed"),
    [
        ({"sampler": "lcm"}, None, ""),
        ({"sampler": "lcm", "num_inference_steps": 51}, "num_inference_steps", "at most 50"),
        ({"sampler": "euler_a", "schedule": "karras"}, "schedule", "normal, trailing, linspace"),
        ({"sampler": "dpmpp_2m", "schedule": "karras"}, None, ""),
        ({"sampler": "heun", "eta": 0.5}, "eta", "only ddim"),
        ({"sampler": "ddim", "eta": 1}, None, ""),
    ],
)
def test_settings_must_go_with_the_sampler(
    catalogue: Catalogue, fields: dict[str, object], param: str | None, allowed: str
) -> None:
    if param is None:
        assert _plan(catalogue, **fields).passes[0].sampling.sampler == fields["sampler"]
        return
    with pytest.raises(InvalidParameter, match=allowed) as caught:
        _plan(catalogue, **fields)
    assert caught.value.param == param


def test_a_pictures_parameters_make_the_same_plan(catalogue: Catalogue) -> None:
    fields = {
        "sampler": "ddim",
        "schedule": "trailing",
        "eta": 0.5,
        "guidance_rescale": 0.2,
        "reproducibility": "exact",
    }
    plan = _plan(catalogue, seed=3, **fields)
    parameters = {name: value for name, value in plan.parameters(3).items() if name != "prompt"}
    assert fields.items() <= parameters.items()
    assert _plan(catalogue, **parameters) == plan


def test_the_larger_pictures_of_a_request_are_bounded_together(catalogue: Catalogue) -> None:
    step, size = UpscaleStep(scale=4), Size(width=1024, height=1024)
    assert resolve_upscale(step, size, catalogue, num_images=4, param="upscale") == "tiny-x4"
    with pytest.raises(InvalidParameter, match="5 images of 4096x4096") as caught:
        resolve_upscale(step, size, catalogue, num_images=5, param="upscale")
    assert caught.value.param == "upscale"
