from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, InitImage, RequestId
from atelier.core.origin import Origin
from atelier.core.params import ControlParams, GenerateParams, OutputFormat, parse
from atelier.imaging.metadata import read_metadata
from atelier.pipeline.inputs import Inputs, InputSizes
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan, resolve
from atelier.pipeline.results import (
    ControlMap,
    Usage,
    joined_names,
    map_files,
    paint_over,
    picture_files,
    to_control_map,
    usage_of,
)
from atelier.pipeline.stages import Annotated
from tests.pictures import decoded, noise, pixels_of

_ORIGIN = Origin("here")


def _plan(catalogue: Catalogue, **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", "seed": 7, "n": 2, "size": "64x32", **fields})
    return resolve(params, InputSizes(), catalogue, max_pixel_steps=10**9, random=Random(0))


def _embeds(num_tokens: int) -> TextEmbeds:
    prompt_embeds, pooled = np.zeros((77, 6), dtype=np.float32), np.zeros(4, dtype=np.float32)
    return TextEmbeds(prompt_embeds=prompt_embeds, pooled_prompt_embeds=pooled, num_tokens=num_tokens)


def _request(plan: Plan, negative: TextEmbeds | None = None, **fields: Any) -> DenoiseRequest:
    conditioning = Conditioning(positive=_embeds(5), negative=negative)
    return DenoiseRequest(request_id=RequestId("r"), pass_=plan.passes[0], conditioning=conditioning, **fields)


def test_usage_of_a_prompt_is_its_tokens_and_the_latent_positions(small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue)
    assert usage_of(_request(plan), plan) == Usage(text_tokens=5, input_image_tokens=0, output_image_tokens=2 * 32)
    assert usage_of(_request(plan, _embeds(3)), plan).text_tokens == 8


def test_usage_counts_every_input_image(small_catalogue: Catalogue) -> None:
    plan, latents = _plan(small_catalogue), np.zeros((1, 4, 4, 8), dtype=np.float32)
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    control = Control(controlnet="c", control_image=pixels, controlnet_conditioning_scale=1)
    init_image = InitImage(mean=latents, std=latents)
    assert usage_of(_request(plan, init_image=init_image), plan).input_image_tokens == 32
    assert usage_of(_request(plan, controls=(control, control)), plan).input_image_tokens == 64
    request = _request(plan, init_image=init_image, controls=(control,))
    assert usage_of(request, plan).input_image_tokens == 64


def test_an_image_that_is_denoised_twice_counts_at_both_sizes(small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue, hires={"scale": 2})
    assert usage_of(_request(plan), plan).output_image_tokens == 2 * (32 + 128)


def test_input_is_counted_for_the_first_image_only() -> None:
    usage = Usage(text_tokens=5, input_image_tokens=32, output_image_tokens=96)
    assert usage.share(0, 3) == Usage(text_tokens=5, input_image_tokens=32, output_image_tokens=32)
    assert (
        usage.share(1, 3) == usage.share(2, 3) == Usage(text_tokens=0, input_image_tokens=0, output_image_tokens=32)
    )


def test_inpainted_images_keep_the_clients_pixels_outside_the_mask() -> None:
    painted = np.stack([np.asarray(noise(64, 32, seed=seed)) for seed in range(2)])
    original = np.asarray(noise(64, 32, seed=2))
    mask = np.zeros((32, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    result = paint_over(painted, Inputs(init_image=original, mask=mask))
    assert result.shape == painted.shape
    for index in range(2):
        assert np.array_equal(result[index, :, :32], original[:, :32])
        assert np.array_equal(result[index, :, 40:], painted[index, :, 40:])


def test_images_without_a_mask_stay_as_they_were_decoded() -> None:
    painted, original = np.asarray(noise(64, 32))[None], np.asarray(noise(64, 32, seed=1))
    assert paint_over(painted, Inputs()) is painted
    assert paint_over(painted, Inputs(init_image=original)) is painted


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_each_file_has_its_own_seed(small_catalogue: Catalogue, output_format: OutputFormat) -> None:
    plan = _plan(small_catalogue, output_format=output_format)
    images = [np.asarray(noise(64, 32, seed=seed)) for seed in range(2)]
    pictures = picture_files(images, plan, Provenance())
    assert [picture.seed for picture in pictures] == [7, 8]
    for picture, image in zip(pictures, images, strict=True):
        file = decoded(picture.data)
        metadata = read_metadata(file)
        assert metadata is not None
        assert metadata.record["parameters"] == plan.parameters(picture.seed)
        assert f"Seed: {picture.seed}, " in metadata.infotext
        assert file.format == output_format.upper()
        if output_format == "png":
            assert np.array_equal(np.asarray(file), image)


def test_files_have_the_quality_that_was_asked_for(small_catalogue: Catalogue) -> None:
    images = [np.asarray(noise(64, 32))] * 2
    small, large = (
        picture_files(images, _plan(small_catalogue, output_format="webp", output_compression=quality), Provenance())
        for quality in (5, 100)
    )
    assert len(small[0].data) < len(large[0].data)


def test_only_drawn_maps_are_returned_in_the_order_of_their_controls() -> None:
    kinds = ("canny", "depth", "scribble")
    controls = [parse(ControlParams, {"kind": kind, "image": b"x"}) for kind in kinds]
    first, last = (np.asarray(noise(16, 8, seed=seed)) for seed in range(2))
    maps = map_files(controls, [Annotated(first, _ORIGIN), None, Annotated(last, _ORIGIN)])
    assert [drawn.kind for drawn in maps] == ["canny", "scribble"]
    assert np.array_equal(pixels_of(maps[0].data), first)
    assert np.array_equal(pixels_of(maps[1].data), last)


def test_a_map_is_a_png() -> None:
    drawn = to_control_map("depth", Annotated(np.asarray(noise(16, 8)), _ORIGIN))
    assert isinstance(drawn, ControlMap)
    assert (drawn.kind, decoded(drawn.data).format) == ("depth", "PNG")


def test_every_upscaler_is_named_once() -> None:
    assert joined_names([]) is None
    assert joined_names(["x4", "x4"]) == "x4"
    assert joined_names(["x4", "bicubic", "x4"]) == "x4, bicubic"
