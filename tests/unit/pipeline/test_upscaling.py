from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Pass
from atelier.core.errors import InvalidParameter, ModelNotFound, NotSupported
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, HiresStep, UpscaleParams, UpscaleStep, parse
from atelier.core.sampling import Sampling
from atelier.pipeline.upscaling import resolve_enlargement, resolve_hires, resolve_upscale
from tests.pictures import encoded, noise

_FIRST = Pass(
    model="small-sdxl",
    size=Size(width=64, height=32),
    seeds=(4, 5),
    sampling=Sampling(num_inference_steps=10, sampler="ddim", schedule="trailing", eta=0.5),
    guidance_scale=3.0,
    guidance_rescale=0.5,
    reproducibility="exact",
)


def _size(width: int, height: int) -> Size:
    return Size(width=width, height=height)


def _hires(catalogue: Catalogue, hires: HiresStep, first: Pass = _FIRST, **fields: Any) -> Pass:
    params = parse(GenerateParams, {"prompt": "x", **fields})
    return resolve_hires(params, hires, first, catalogue.models[0])


def _without_upscalers(catalogue: Catalogue) -> Catalogue:
    return catalogue.model_copy(update={"upscalers": ()})


def test_the_first_upscaler_is_the_default_and_bicubic_where_there_is_none(small_catalogue: Catalogue) -> None:
    size = _size(64, 64)
    assert resolve_upscale(UpscaleStep(), size, small_catalogue, field="upscale") == "tiny-x4"
    assert resolve_upscale(UpscaleStep(model="tiny-x4"), size, small_catalogue, field="upscale") == "tiny-x4"
    assert resolve_upscale(UpscaleStep(), size, _without_upscalers(small_catalogue), field="upscale") is None
    for field, param in ((None, "model"), ("upscale", "upscale.model")):
        with pytest.raises(ModelNotFound, match="Unknown upscaler 'nope'") as caught:
            resolve_upscale(UpscaleStep(model="nope"), size, small_catalogue, field=field)
        assert caught.value.param == param


def test_an_enlarged_image_has_at_most_4096_by_4096_pixels(small_catalogue: Catalogue) -> None:
    assert resolve_upscale(UpscaleStep(scale=4), _size(1024, 1024), small_catalogue, field=None) == "tiny-x4"
    with pytest.raises(
        InvalidParameter, match=r"scale: 1024x1025 times 4\.0 is 4096x4100; at most 16777216"
    ) as caught:
        resolve_upscale(UpscaleStep(scale=4), _size(1024, 1025), small_catalogue, field=None)
    assert caught.value.param == "scale"


def test_enlarged_images_of_a_request_are_bounded_together(catalogue: Catalogue) -> None:
    step, size = UpscaleStep(scale=4), Size(width=1024, height=1024)
    assert resolve_upscale(step, size, catalogue, num_images=4, field="upscale") == "tiny-x4"
    with pytest.raises(InvalidParameter, match="5 images of 4096x4096") as caught:
        resolve_upscale(step, size, catalogue, num_images=5, field="upscale")
    assert caught.value.param == "upscale"


@pytest.mark.parametrize(
    ("size", "is_read"),
    [
        (_size(2048, 2048), True),
        (_size(2045, 2045), True),
        (_size(2049, 2048), False),
        (_size(2048, 2049), False),
        (_size(4_194_304, 1), False),
        (_size(1_048_576, 1), True),
    ],
)
def test_a_network_reads_at_most_2048_by_2048_pixels_with_padding(
    small_catalogue: Catalogue, size: Size, is_read: bool
) -> None:
    """Sides are padded to multiples of four."""
    step = UpscaleStep(scale=1)
    assert resolve_upscale(step, size, _without_upscalers(small_catalogue), field=None) is None
    if is_read:
        assert resolve_upscale(step, size, small_catalogue, field=None) == "tiny-x4"
    else:
        with pytest.raises(InvalidParameter, match="tiny-x4 reads 4194304 pixels at most") as caught:
            resolve_upscale(step, size, small_catalogue, field=None)
        assert caught.value.param == "scale"


def test_a_second_pass_is_the_first_at_another_size_and_strength(small_catalogue: Catalogue) -> None:
    second = _hires(small_catalogue, HiresStep(scale=2, strength=0.4, steps=5))
    sampling = replace(_FIRST.sampling, num_inference_steps=5, strength=0.4)
    assert second == replace(_FIRST, size=_size(128, 64), sampling=sampling)


def test_a_second_pass_has_the_steps_of_the_first_by_default(small_catalogue: Catalogue) -> None:
    assert _hires(small_catalogue, HiresStep()).sampling.num_inference_steps == 10


def test_a_second_pass_draws_whole_latents(small_catalogue: Catalogue) -> None:
    assert _hires(small_catalogue, HiresStep(scale=1.2)).size == _size(80, 40)


@pytest.mark.parametrize("field", ["controls", "mask_image"])
def test_hires_goes_with_neither_controls_nor_a_mask(small_catalogue: Catalogue, field: str) -> None:
    value: Any = [{"kind": "canny", "image": b"x"}] if field == "controls" else b"x"
    with pytest.raises(NotSupported) as caught:
        _hires(small_catalogue, HiresStep(), **{field: value})
    assert caught.value.param == "hires"


def test_hires_goes_with_an_init_image(small_catalogue: Catalogue) -> None:
    assert _hires(small_catalogue, HiresStep(), init_image=b"x").size == _size(128, 64)


def test_hires_stays_within_the_models_sides(small_catalogue: Catalogue) -> None:
    assert _hires(small_catalogue, HiresStep(scale=4)).size == _size(256, 128)
    first = replace(_FIRST, size=_size(72, 32))
    with pytest.raises(
        InvalidParameter, match=r"72x32 times 4\.0 is 288x128; small-sdxl draws sides of 32 to 256"
    ) as caught:
        _hires(small_catalogue, HiresStep(scale=4), first)
    assert caught.value.param == "hires"


def test_hires_takes_at_least_one_step_and_no_more_than_the_sampler_does(small_catalogue: Catalogue) -> None:
    assert _hires(small_catalogue, HiresStep(strength=0.1)).sampling.num_taken_steps == 1
    with pytest.raises(InvalidParameter, match=r"hires: 0\.09 of 10 steps is none") as caught:
        _hires(small_catalogue, HiresStep(strength=0.09))
    assert caught.value.param == "hires"
    lcm = replace(_FIRST, sampling=Sampling(num_inference_steps=10, sampler="lcm"))
    assert _hires(small_catalogue, HiresStep(steps=50), lcm).sampling.num_inference_steps == 50
    with pytest.raises(InvalidParameter, match="too many for lcm, which takes 50"):
        _hires(small_catalogue, HiresStep(steps=51), lcm)


def _upscale_params(**fields: Any) -> UpscaleParams:
    return parse(UpscaleParams, {"image": encoded(noise(24, 16)), **fields})


@pytest.mark.parametrize(
    ("fields", "size", "param"),
    [
        ({"output_compression": 50}, _size(24, 16), "output_compression"),
        ({"output_format": "webp"}, _size(4096, 1), "output_format"),
        ({}, _size(1025, 1024), "scale"),
    ],
)
def test_an_enlargement_is_refused_by_the_size_of_the_image(
    small_catalogue: Catalogue, fields: dict[str, object], size: Size, param: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolve_enlargement(_upscale_params(**fields), size, small_catalogue)
    assert caught.value.param == param


def test_the_longest_webp_that_can_be_written_is_made(small_catalogue: Catalogue) -> None:
    assert resolve_enlargement(_upscale_params(output_format="webp"), _size(4095, 1), small_catalogue) == "tiny-x4"
