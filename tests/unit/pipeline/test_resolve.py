from __future__ import annotations

from random import Random

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Sides
from atelier.core.conditioning import Prompts, Text
from atelier.core.denoising import Pass
from atelier.core.errors import InvalidParameter, ModelNotFound, TooMuchWork
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.core.sampling import Sampling
from atelier.pipeline.inputs import InputSizes
from atelier.pipeline.resolve import Plan, resolve

_IMAGE = b"an image"


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


def test_each_image_has_the_next_seed(catalogue: Catalogue) -> None:
    assert _plan(catalogue, seed=41, n=3).seeds == (41, 42, 43)


def test_seeds_of_all_images_can_be_sent_back(catalogue: Catalogue) -> None:
    assert _plan(catalogue, seed=2**32 - 2, n=2).seeds == (2**32 - 2, 2**32 - 1)
    with pytest.raises(InvalidParameter, match="2 images take as many seeds") as caught:
        _plan(catalogue, seed=2**32 - 1, n=2)
    assert caught.value.param == "seed"


def test_a_seed_is_drawn_where_none_is_sent(catalogue: Catalogue) -> None:
    assert _plan(catalogue).seeds == _plan(catalogue, seed=-1).seeds == (Random(0).randint(0, 2**32 - 1),)


def test_no_negative_prompt_is_not_an_empty_one(catalogue: Catalogue) -> None:
    def negative(**fields: object) -> Text | None:
        return _plan(catalogue, **fields).prompts.negative

    assert negative() is None
    assert negative(negative_prompt="") == Text("", "")
    assert negative(negative_prompt="a") == Text("a", "a")
    assert negative(negative_prompt="a", negative_prompt_2="b") == Text("a", "b")


def test_an_unused_negative_prompt_is_recorded(catalogue: Catalogue) -> None:
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


def test_parameters_with_settings_make_the_same_plan(catalogue: Catalogue) -> None:
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


def _with_defaults(catalogue: Catalogue, **defaults: object) -> Catalogue:
    """The catalogue with other defaults of its model."""
    [entry] = catalogue.models
    entry = entry.model_copy(update={"defaults": entry.defaults.model_copy(update=defaults)})
    return catalogue.model_copy(update={"models": (entry,)})


class _ExtremeRandom(Random):
    """Draws the first or the last number of a range."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self._last = last

    def randint(self, a: int, b: int) -> int:
        return b if self._last else a


def test_drawn_seeds_span_all_that_can_be_sent_back(catalogue: Catalogue) -> None:
    params = parse(GenerateParams, {"prompt": "x", "n": 3})
    first, last = (
        resolve(params, InputSizes(), catalogue, max_pixel_steps=10**9, random=_ExtremeRandom(last=last)).seeds
        for last in (False, True)
    )
    assert first == (0, 1, 2)
    assert last == (4_294_967_293, 4_294_967_294, 4_294_967_295)


def test_settings_of_the_request_reach_the_pass(catalogue: Catalogue) -> None:
    plan = _plan(
        catalogue,
        size="96x64",
        seed=7,
        n=2,
        num_inference_steps=9,
        guidance_scale=3.5,
        guidance_rescale=0.25,
        sampler="ddim",
        schedule="trailing",
        eta=0.5,
        reproducibility="exact",
    )
    assert plan.passes == (
        Pass(
            model="tiny-sdxl",
            size=Size(width=96, height=64),
            seeds=(7, 8),
            sampling=Sampling(num_inference_steps=9, sampler="ddim", schedule="trailing", eta=0.5, strength=1.0),
            guidance_scale=3.5,
            guidance_rescale=0.25,
            reproducibility="exact",
        ),
    )
    assert (plan.model, plan.seeds) == ("tiny-sdxl", (7, 8))


def test_default_steps_stay_within_what_the_sampler_takes(catalogue: Catalogue) -> None:
    slow = _with_defaults(catalogue, num_inference_steps=60)
    assert _plan(slow).passes[0].sampling.num_inference_steps == 60
    assert _plan(slow, sampler="lcm").passes[0].sampling.num_inference_steps == 50
    assert _plan(slow, sampler="lcm", num_inference_steps=50).params.num_inference_steps == 50


def test_sampler_and_schedule_of_the_model_are_used_where_the_request_names_none(catalogue: Catalogue) -> None:
    def sampling(**fields: object) -> tuple[str, str | None]:
        drawn = _plan(few_steps, num_inference_steps=4, **fields).passes[0].sampling
        return drawn.sampler, drawn.schedule

    few_steps = _with_defaults(catalogue, sampler="euler_a", schedule="trailing")
    assert sampling() == ("euler_a", "trailing")
    assert sampling(sampler="heun") == ("heun", "trailing")
    assert sampling(schedule="linspace") == ("euler_a", "linspace")
    assert sampling(sampler="dpmpp_2m", schedule="karras") == ("dpmpp_2m", "karras")
    assert _plan(catalogue).passes[0].sampling == Sampling(num_inference_steps=20, sampler="euler", schedule=None)


def test_a_default_schedule_gives_way_to_a_sampler_without_it(catalogue: Catalogue) -> None:
    few_steps = _with_defaults(catalogue, schedule="trailing")
    assert _plan(few_steps, sampler="lcm").passes[0].sampling.schedule is None
    with pytest.raises(InvalidParameter, match="the sampler lcm goes with normal; got 'trailing'"):
        _plan(few_steps, sampler="lcm", schedule="trailing")


def test_bounds_are_those_of_the_models_sampler(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidParameter, match="the sampler lcm takes at most 50; got 51") as caught:
        _plan(_with_defaults(catalogue, sampler="lcm"), num_inference_steps=51)
    assert caught.value.param == "num_inference_steps"


def test_default_sampler_and_schedule_are_recorded(catalogue: Catalogue) -> None:
    plan = _plan(_with_defaults(catalogue, sampler="heun", schedule="trailing"), seed=1)
    parameters = plan.parameters(1)
    assert (parameters["sampler"], parameters["schedule"]) == ("heun", "trailing")
    assert _plan(catalogue, **parameters) == plan


def test_a_blank_prompt_is_the_models_empty_prompt(catalogue: Catalogue) -> None:
    def positive(catalogue: Catalogue, **fields: object) -> Text:
        return _plan(catalogue, init_image=_IMAGE, **fields).prompts.positive

    pony = _with_defaults(catalogue, empty_prompt="a picture")
    assert positive(pony, prompt="") == positive(pony, prompt=" \n") == Text("a picture", "a picture")
    assert positive(pony, prompt="", prompt_2="y") == Text("a picture", "y")
    assert positive(pony, prompt="x") == Text("x", "x")
    assert positive(catalogue, prompt="") == Text("", "")
    assert _plan(pony, init_image=_IMAGE, prompt="").parameters(1)["prompt"] == "a picture"


def test_a_model_may_have_a_negative_prompt_of_its_own(catalogue: Catalogue) -> None:
    blurry = _with_defaults(catalogue, negative_prompt="blurry")
    assert _plan(blurry).prompts.negative == Text("blurry", "blurry")
    assert _plan(blurry, negative_prompt="").prompts.negative == Text("", "")
    assert _plan(blurry).parameters(1)["negative_prompt"] == "blurry"


def test_prompts_of_the_second_encoder_are_the_first_ones_by_default(catalogue: Catalogue) -> None:
    assert _plan(catalogue).prompts.positive == Text("x", "x")
    assert _plan(catalogue, prompt_2="y").prompts.positive == Text("x", "y")
    assert _plan(catalogue, prompt_2="").prompts.positive == Text("x", "x")
    assert _plan(catalogue, prompt_2="x").params.prompt_2 is None
    assert _plan(catalogue, negative_prompt="a", negative_prompt_2="").prompts.negative == Text("a", "a")


def test_a_second_negative_prompt_needs_a_first(catalogue: Catalogue) -> None:
    """In diffusers, guidance without a negative_prompt runs against zeros, whatever negative_prompt_2 is."""
    assert _plan(catalogue, negative_prompt_2="").prompts.negative is None
    assert _plan(catalogue, negative_prompt="", negative_prompt_2="b").prompts.negative == Text("", "b")
    with pytest.raises(InvalidParameter, match="needs a negative_prompt") as caught:
        _plan(catalogue, negative_prompt_2="b")
    assert caught.value.param == "negative_prompt_2"


@pytest.mark.parametrize("guidance_scale", [0, 1])
def test_guidance_of_at_most_one_needs_no_negative_prompt(catalogue: Catalogue, guidance_scale: float) -> None:
    assert _plan(catalogue, negative_prompt="a", guidance_scale=guidance_scale).prompts.negative is None
    assert _plan(catalogue, negative_prompt="a", guidance_scale=1.01).prompts.negative is not None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (InputSizes(init_image=Size(width=100, height=70)), "96x72"),
        (InputSizes(control_images=(Size(width=100, height=70), Size(width=64, height=64))), "96x72"),
        (
            InputSizes(init_image=Size(width=80, height=64), control_images=(Size(width=200, height=200),)),
            "80x64",
        ),
        (InputSizes(init_image=Size(width=5000, height=20)), "256x64"),
        (InputSizes(), "128x128"),
    ],
)
def test_an_input_image_decides_the_size_where_the_request_does_not(
    catalogue: Catalogue, sizes: InputSizes, expected: str
) -> None:
    params = parse(GenerateParams, {"prompt": "x", "init_image": _IMAGE})

    def size(params: GenerateParams) -> str:
        plan = resolve(params, sizes, catalogue, max_pixel_steps=10**9, random=Random(0))
        assert str(plan.passes[0].size) == plan.params.size
        return str(plan.image_size)

    assert size(params) == expected
    assert size(params.model_copy(update={"size": "64x96"})) == "64x96"


def test_an_image_is_taken_eight_tenths_of_the_way_by_default(catalogue: Catalogue) -> None:
    plan = _plan(catalogue, init_image=_IMAGE)
    assert (plan.passes[0].sampling.strength, plan.params.strength) == (0.8, 0.8)
    assert _plan(catalogue, init_image=_IMAGE, strength=0.3).passes[0].sampling.strength == 0.3
    assert _plan(catalogue).passes[0].sampling.strength == 1
    assert _plan(catalogue).params.strength is None


def test_a_strength_without_a_step_is_refused(catalogue: Catalogue) -> None:
    fields = {"init_image": _IMAGE, "num_inference_steps": 10}
    assert _plan(catalogue, **fields, strength=0.1).passes[0].sampling.num_taken_steps == 1
    with pytest.raises(
        InvalidParameter, match=r"strength: 0\.09 of 10 steps is none; ask for at least 0\.100"
    ) as caught:
        _plan(catalogue, **fields, strength=0.09)
    assert caught.value.param == "strength"


def test_controls_are_resolved_in_their_order(small_catalogue: Catalogue) -> None:
    kinds = [{"kind": "depth", "image": _IMAGE}, {"kind": "canny", "image": _IMAGE, "scale": 0.0}]
    controls = _plan(small_catalogue, controls=kinds).params.controls
    assert [(control.model, control.scale) for control in controls] == [("small-depth", 0.8), ("small-canny", 0.0)]
    with pytest.raises(InvalidParameter) as caught:
        _plan(small_catalogue, controls=[kinds[0], {"kind": "scribble", "image": _IMAGE}])
    assert caught.value.param == "controls[1].kind"


def test_hires_adds_a_second_pass_with_the_seeds_of_the_first(catalogue: Catalogue) -> None:
    hires = {"scale": 1.5, "strength": 0.5, "steps": 8}
    plan = _plan(catalogue, size="64x96", seed=4, n=2, sampler="heun", hires=hires)
    first, second = plan.passes
    assert (first.size, second.size) == (Size(width=64, height=96), Size(width=96, height=144))
    assert first.seeds == second.seeds == (4, 5)
    assert second.sampling == Sampling(num_inference_steps=8, sampler="heun", strength=0.5)
    assert first.sampling == Sampling(num_inference_steps=20, sampler="heun")
    assert plan.image_size == Size(width=96, height=144)
    assert plan.params.size == "64x96"


def test_enlargements_are_recorded_with_what_they_mean(catalogue: Catalogue) -> None:
    plan = _plan(catalogue, size="64x64", hires={"scale": 1.5}, upscale={"scale": 2})
    assert plan.parameters(1)["hires"] == {"scale": 1.5, "strength": 0.5, "steps": 20, "model": "tiny-x4"}
    assert plan.parameters(1)["upscale"] == {"scale": 2, "model": "tiny-x4"}
    assert plan.image_size == Size(width=192, height=192)


def test_the_upscaler_reads_the_images_of_the_second_pass(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidParameter, match="10 images of 4096x4096") as caught:
        _plan(_of_large_sides(catalogue), size="512x512", num_inference_steps=2, n=10, hires={"scale": 2}, upscale={})
    assert caught.value.param == "upscale"


def _of_large_sides(catalogue: Catalogue) -> Catalogue:
    [entry] = catalogue.models
    entry = entry.model_copy(update={"sides_px": Sides(min=64, max=8192)})
    return catalogue.model_copy(update={"models": (entry,)})


def test_a_file_must_hold_the_enlarged_image(catalogue: Catalogue) -> None:
    fields = {"size": "8192x64", "num_inference_steps": 1, "upscale": {"scale": 4}}
    assert _plan(_of_large_sides(catalogue), **fields).image_size == Size(width=32_768, height=256)
    with pytest.raises(InvalidParameter, match="this image is 32768x256") as caught:
        _plan(_of_large_sides(catalogue), **fields, output_format="webp")
    assert caught.value.param == "output_format"
    with pytest.raises(InvalidParameter) as lossless:
        _plan(catalogue, output_compression=50)
    assert lossless.value.param == "output_compression"


@pytest.mark.parametrize(
    ("fields", "work", "message"),
    [
        ({}, 64 * 64 * 10 * 2, "64x64 pixels × 10 steps × 2 images is 81920 pixel steps; at most 81919 are allowed"),
        (
            {"hires": {"scale": 2, "steps": 8}},
            (64 * 64 * 10 + 128 * 128 * 4) * 2,
            "(64x64 pixels × 10 steps + 128x128 pixels × 4 steps) × 2 images is 212992 pixel steps; at most 212991",
        ),
        ({"init_image": _IMAGE, "strength": 0.5}, 64 * 64 * 5 * 2, "64x64 pixels × 5 steps × 2 images is 40960"),
    ],
)
def test_work_up_to_the_limit_is_done(
    catalogue: Catalogue, fields: dict[str, object], work: int, message: str
) -> None:
    asked = {"prompt": "x", "size": "64x64", "num_inference_steps": 10, "n": 2}
    params = parse(GenerateParams, {**asked, **fields})
    assert resolve(params, InputSizes(), catalogue, max_pixel_steps=work, random=Random(0)).seeds
    with pytest.raises(TooMuchWork) as caught:
        resolve(params, InputSizes(), catalogue, max_pixel_steps=work - 1, random=Random(0))
    assert str(caught.value).startswith(message)


def test_the_parameters_of_an_image_have_its_seed(catalogue: Catalogue) -> None:
    plan = _plan(
        catalogue, seed=3, n=2, deadline_s=5, negative_prompt="n", output_format="webp", output_compression=40
    )
    assert plan.parameters(4) == {
        "prompt": "x",
        "model": "tiny-sdxl",
        "size": "128x128",
        "output_format": "webp",
        "output_compression": 40,
        "negative_prompt": "n",
        "negative_prompt_2": "n",
        "seed": 4,
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
        "sampler": "euler",
        "reproducibility": "fast",
    }
