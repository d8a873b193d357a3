from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts, Text
from atelier.core.control import Annotation
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.errors import QueueFull
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.events import Reports
from atelier.pipeline.inputs import read_inputs, read_sizes
from atelier.pipeline.prepare import DrawnMaps, prepare, prepare_hires, upscale_images
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan, resolve
from tests.pictures import encoded, noise
from tests.records import request_stages
from tests.stages import RecordingStages

_ID = RequestId("req_1")
_IMAGE = encoded(noise(64, 32))


def _plan(catalogue: Catalogue, **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", "seed": 7, "size": "64x32", **fields})
    return resolve(params, read_sizes(params), catalogue, max_pixel_steps=10**9, random=Random(0))


async def _prepare(
    stages: RecordingStages, plan: Plan, provenance: Provenance | None = None, reports: Reports | None = None
) -> tuple[DenoiseRequest, DrawnMaps]:
    inputs = read_inputs(plan.params, plan.passes[0].size)
    return await prepare(_ID, plan, inputs, request_stages(stages), provenance or Provenance(), reports or Reports())


async def test_a_prompt_becomes_a_request(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue, prompt_2="y", negative_prompt="n", reproducibility="exact")
    request, drawn_maps = await _prepare(stages, plan)
    assert stages.args_of("encode_texts") == [
        ("small-sdxl", Prompts(positive=Text("x", "y"), negative=Text("n", "n")), "exact")
    ]
    assert stages.names == ["encode_texts"]
    assert request.request_id.startswith(f"{_ID}.")
    assert (request.pass_, drawn_maps) == (plan.passes[0], ())
    assert (request.init_image, request.controls) == (None, ())
    assert (request.report_steps, request.num_previews) == (False, 0)
    assert request.conditioning.negative is not None


async def test_reports_are_asked_of_the_engine(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    reports = Reports(steps=True, num_previews=2, latent_rgb=small_catalogue.models[0].latent_rgb)
    request, _ = await _prepare(stages, _plan(small_catalogue), reports=reports)
    assert (request.report_steps, request.num_previews) == (True, 2)


async def test_an_init_image_is_encoded_at_the_size_that_is_drawn(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    request, _ = await _prepare(stages, _plan(small_catalogue, init_image=_IMAGE, n=2))
    [(model, pixels)] = stages.args_of("encode_latents")
    assert model == "small-sdxl"
    assert isinstance(pixels, np.ndarray)
    assert np.array_equal(pixels, np.asarray(noise(64, 32))[None])
    assert request.init_image is not None
    assert request.init_image.mean.shape == request.init_image.std.shape == (1, 4, 4, 8)
    assert not np.array_equal(request.init_image.mean, request.init_image.std)
    assert (request.init_image.std > 0).all()
    assert request.init_image.mask is None


async def test_a_mask_reaches_the_engine_at_the_size_of_the_latents(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    mask = np.zeros((32, 64), dtype=np.uint8)
    mask[8:, 16:] = 255
    request, _ = await _prepare(
        stages, _plan(small_catalogue, init_image=_IMAGE, mask_image=encoded(Image.fromarray(mask)))
    )
    assert request.init_image is not None
    assert request.init_image.mask is not None
    assert request.init_image.mask.tolist() == [[0] * 8] + [[0, 0, 1, 1, 1, 1, 1, 1]] * 3


async def test_control_maps_are_sent_or_drawn_in_their_order(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    sent, seen = noise(64, 32, seed=1), noise(64, 32, seed=2)
    controls = [
        {"kind": "canny", "image": encoded(sent), "scale": 0.5},
        {"kind": "depth", "image": encoded(seen), "annotate": True},
        {"kind": "canny", "image": encoded(seen), "annotate": True, "low_threshold": 1, "high_threshold": 2},
    ]
    request, drawn_maps = await _prepare(stages, _plan(small_catalogue, controls=controls))
    annotations = [args[0] for args in stages.args_of("annotate")]
    assert annotations == [Annotation("depth"), Annotation("canny", low_threshold=1, high_threshold=2)]
    for _, pixels in stages.args_of("annotate"):
        assert np.array_equal(pixels, np.asarray(seen))  # type: ignore[arg-type]
    assert drawn_maps[0] is None
    assert [control.controlnet for control in request.controls] == ["small-canny", "small-depth", "small-canny"]
    assert [control.controlnet_conditioning_scale for control in request.controls] == [0.5, 0.8, 0.8]
    assert np.array_equal(request.controls[0].control_image, np.asarray(sent))
    for control, drawn in zip(request.controls[1:], drawn_maps[1:], strict=True):
        assert drawn is not None
        assert control.control_image is drawn.control_image


async def test_the_origins_of_all_inputs_are_recorded(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    provenance = Provenance()
    controls = [{"kind": "depth", "image": _IMAGE, "annotate": True}]
    await _prepare(stages, _plan(small_catalogue, init_image=_IMAGE, controls=controls), provenance)
    assert set(provenance.weights) == {"small-sdxl/text_encoders", "small-sdxl/vae", "tiny-depth-anything"}


async def test_an_error_of_a_stage_is_raised(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    stages.failures["encode_latents"] = QueueFull()
    with pytest.raises(QueueFull):
        await _prepare(stages, _plan(small_catalogue, init_image=_IMAGE))


async def test_the_second_pass_starts_from_the_enlarged_images(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    plan = _plan(small_catalogue, n=2, hires={"scale": 2}, negative_prompt="n", reproducibility="exact")
    reports = Reports(steps=True, num_previews=1, latent_rgb=small_catalogue.models[0].latent_rgb)
    first, _ = await _prepare(stages, plan, reports=reports)
    pixels = np.stack([np.asarray(noise(64, 32, seed=seed)) for seed in range(2)])
    provenance = Provenance()
    request, upscaled = await prepare_hires(
        first, plan.passes[1], pixels, "tiny-x4", request_stages(stages), provenance
    )
    assert request.pass_ == plan.passes[1]
    assert request.request_id.startswith(f"{_ID}.")
    assert request.request_id != first.request_id
    assert request.conditioning is first.conditioning
    assert (request.report_steps, request.num_previews, request.controls) == (True, 0, ())
    assert [image.pixels.shape for image in upscaled] == [(64, 128, 3)] * 2
    assert request.init_image is not None
    for index, image in enumerate(upscaled):
        alone = await stages.encode_latents("small-sdxl", image.pixels[None])
        assert np.array_equal(request.init_image.mean[index], alone.mean[0])
        assert np.array_equal(request.init_image.std[index], alone.std[0])
    assert request.init_image.mask is None
    assert set(provenance.weights) == {"tiny-x4", "small-sdxl/vae"}


async def test_images_of_a_second_pass_are_encoded_one_by_one(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    """An image's bits must not depend on how many come with it."""
    plan = _plan(small_catalogue, n=3, hires={"scale": 2})
    first, _ = await _prepare(stages, plan)
    pixels = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    await prepare_hires(first, plan.passes[1], pixels, None, request_stages(stages), Provenance())
    encoded_pixels = [args[1] for args in stages.args_of("encode_latents")]
    assert [array.shape for array in encoded_pixels if isinstance(array, np.ndarray)] == [(1, 64, 128, 3)] * 3


async def test_images_are_enlarged_by_the_upscaler_in_their_order(stages: RecordingStages) -> None:
    pixels = np.stack([np.asarray(noise(16, 8, seed=seed)) for seed in range(2)])
    size = Size(width=48, height=24)
    upscaled = await upscale_images(pixels, size, "tiny-x4", "exact", request_stages(stages))
    calls = stages.args_of("upscale")
    assert [(upscaler, wanted, mode) for upscaler, _, wanted, mode in calls] == [("tiny-x4", size, "exact")] * 2
    for image, result in zip(pixels, upscaled, strict=True):
        alone = await stages.upscale("tiny-x4", image, size, "exact")
        assert np.array_equal(result.pixels, alone.pixels)
        assert result.pixels.shape == (24, 48, 3)
