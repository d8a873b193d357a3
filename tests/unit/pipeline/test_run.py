from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random

import numpy as np
import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import DecodedPreview, RequestId
from atelier.core.errors import GenerationFailed, ReplicaLost
from atelier.core.params import GenerateParams, OutputFormat, parse
from atelier.imaging.metadata import read_metadata
from atelier.local.stages import LocalStages
from atelier.pipeline.events import Event, Planned, Preview, Reports, Step
from atelier.pipeline.inputs import read_inputs, read_sizes
from atelier.pipeline.resolve import Plan, resolve
from atelier.pipeline.results import Result
from atelier.pipeline.run import run
from tests.pictures import decoded, encoded, noise, pixels_of
from tests.records import request_stages
from tests.stages import RecordingStages

_ID = RequestId("req_1")
_IMAGE = encoded(noise(64, 32))


def _plan(catalogue: Catalogue, **fields: object) -> Plan:
    params = parse(GenerateParams, {"prompt": "x", "seed": 7, "size": "64x32", **fields})
    return resolve(params, read_sizes(params), catalogue, max_pixel_steps=10**9, random=Random(0))


async def _run(stages: RecordingStages, plan: Plan, reports: Reports | None = None) -> list[Event]:
    inputs = read_inputs(plan.params, plan.passes[0].size)
    return [event async for event in run(_ID, plan, inputs, request_stages(stages), reports or Reports())]


async def _result(stages: RecordingStages, plan: Plan) -> Result:
    [planned, result] = await _run(stages, plan)
    assert planned == Planned(request_id=_ID, plan=plan)
    assert isinstance(result, Result)
    return result


def _pixels(result: Result) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return [pixels_of(picture.data) for picture in result.pictures]


def _previews(catalogue: Catalogue, num_previews: int, *, steps: bool = False) -> Reports:
    return Reports(steps=steps, num_previews=num_previews, latent_rgb=catalogue.models[0].latent_rgb)


async def test_a_plan_becomes_a_result(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue, n=2)
    result = await _result(stages, plan)
    assert stages.names == ["encode_texts", "denoise", "decode_latents"]
    assert (result.request_id, result.plan, result.upscaler, result.control_maps) == (_ID, plan, None, ())
    assert [picture.seed for picture in result.pictures] == [7, 8]
    first, second = _pixels(result)
    assert first.shape == second.shape == (32, 64, 3)
    assert not np.array_equal(first, second)
    assert (result.usage.text_tokens, result.usage.input_image_tokens) == (1, 0)
    assert result.usage.output_image_tokens == 2 * 4 * 8
    assert len(result.exactness_key) == 16


async def test_no_model_has_seen_a_request_that_is_only_planned(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    plan = _plan(small_catalogue)
    async with aclosing(
        run(_ID, plan, read_inputs(plan.params, plan.passes[0].size), request_stages(stages))
    ) as events:
        assert isinstance(await anext(events), Planned)
        assert stages.calls == []


async def test_every_step_is_reported_to_consumers_that_ask(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    planned, *steps, result = await _run(stages, _plan(small_catalogue), Reports(steps=True))
    assert isinstance(planned, Planned)
    assert isinstance(result, Result)
    assert [(step.step, step.total) for step in steps if isinstance(step, Step)] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    elapsed_s = [step.elapsed_s for step in steps if isinstance(step, Step)]
    assert 0 < elapsed_s[0] < elapsed_s[1] < elapsed_s[2] < elapsed_s[3]


async def test_steps_are_counted_over_both_passes(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    hires = {"scale": 2, "steps": 6, "strength": 0.5}
    plan = _plan(small_catalogue, sampler="heun", num_inference_steps=2, hires=hires)
    events = await _run(stages, plan, Reports(steps=True))
    steps = [(event.step, event.total) for event in events if isinstance(event, Step)]
    assert steps == [(step, 3 + 5) for step in range(1, 9)]


@pytest.mark.parametrize(("output_format", "pillows"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_previews_are_files_of_every_image(
    stages: RecordingStages, small_catalogue: Catalogue, output_format: OutputFormat, pillows: str
) -> None:
    plan = _plan(small_catalogue, n=2, output_format=output_format)
    _, *previews, _ = await _run(stages, plan, _previews(small_catalogue, 3))
    assert [event.index for event in previews if isinstance(event, Preview)] == [0, 1, 2]
    for event in previews:
        assert isinstance(event, Preview)
        pictures = [decoded(file) for file in event.files]
        assert [(picture.format, picture.size) for picture in pictures] == [(pillows, (64, 32))] * 2
        assert event.files[0] != event.files[1]


async def test_a_step_comes_before_its_preview(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue, num_inference_steps=2)
    events = await _run(stages, plan, _previews(small_catalogue, 1, steps=True))
    kinds = [type(event) for event in events]
    assert kinds.index(Preview) == 2
    assert kinds == [Planned, Step, Preview, Step, Result]


async def test_decoded_previews_are_files_at_the_size_of_the_images(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    half = np.zeros((2, 16, 32, 3), np.uint8)
    half[0, :, 16:] = (255, 0, 0)
    half[1, :8] = (0, 0, 255)
    stages.previews = [DecodedPreview(3, half)]
    events = await _run(stages, _plan(small_catalogue, n=2), Reports(steps=True, num_previews=1))
    assert [type(event) for event in events] == [Planned, Step, Step, Step, Step, Preview, Result]
    preview = events[5]
    assert isinstance(preview, Preview)
    first, second = (pixels_of(file) for file in preview.files)
    assert (preview.index, first.shape, second.shape) == (0, (32, 64, 3), (32, 64, 3))
    assert (first[:, 36:] == (255, 0, 0)).all()
    assert (first[:, :28] == 0).all()
    assert (second[:12] == (0, 0, 255)).all()
    assert (second[20:] == 0).all()


async def test_previews_have_the_quality_that_was_asked_for(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    sizes = []
    for quality in (1, 100):
        plan = _plan(small_catalogue, output_format="jpeg", output_compression=quality)
        preview = (await _run(stages, plan, _previews(small_catalogue, 1)))[1]
        assert isinstance(preview, Preview)
        sizes.append(len(preview.files[0]))
    assert sizes[0] < sizes[1]


async def test_an_init_image_changes_the_images(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    fields = {"strength": 0.5}
    first, second = [
        await _result(stages, _plan(small_catalogue, init_image=encoded(noise(64, 32, seed=seed)), **fields))
        for seed in range(2)
    ]
    assert first.usage.input_image_tokens == 4 * 8
    assert not np.array_equal(_pixels(first), _pixels(second))
    assert [request.pass_.sampling.num_taken_steps for request in stages.requests] == [2, 2]


async def test_a_masked_image_keeps_its_own_pixels_outside(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    mask = np.zeros((32, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    from_mask = _plan(small_catalogue, init_image=_IMAGE, mask_image=encoded(Image.fromarray(mask)), n=2)
    for pixels in _pixels(await _result(stages, from_mask)):
        assert np.array_equal(pixels[:, :32], np.asarray(noise(64, 32))[:, :32])
        assert not np.array_equal(pixels[:, 32:], np.asarray(noise(64, 32))[:, 32:])


async def test_drawn_maps_are_part_of_the_result(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    controls = [
        {"kind": "depth", "image": _IMAGE},
        {"kind": "canny", "image": _IMAGE, "annotate": True},
    ]
    result = await _result(stages, _plan(small_catalogue, controls=controls))
    [drawn] = result.control_maps
    assert drawn.kind == "canny"
    assert np.array_equal(pixels_of(drawn.data), stages.requests[0].controls[1].control_image)


async def test_images_of_a_second_pass_are_those_of_their_own_seeds(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    fields = {"hires": {"scale": 2}, "reproducibility": "exact", "num_inference_steps": 2}
    together = _pixels(await _result(stages, _plan(small_catalogue, n=2, **fields)))
    alone = [_pixels(await _result(stages, _plan(small_catalogue, **{**fields, "seed": seed})))[0] for seed in (7, 8)]
    assert together[0].shape == (64, 128, 3)
    for ours, theirs in zip(together, alone, strict=True):
        assert np.array_equal(ours, theirs)
    assert not np.array_equal(together[0], together[1])


async def test_the_second_pass_begins_with_the_images_of_the_first(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    result = await _result(stages, _plan(small_catalogue, hires={"scale": 2}, reproducibility="exact"))
    first = await _result(stages, _plan(small_catalogue, reproducibility="exact"))
    [(upscaler, pixels, size, mode)] = stages.args_of("upscale")
    assert (upscaler, str(size), mode) == ("tiny-x4", "128x64", "exact")
    assert np.array_equal(pixels, _pixels(first)[0])  # type: ignore[arg-type]
    first_id, second_id = (request.request_id for request in stages.requests[:2])
    assert first_id != second_id
    assert all(one.startswith("req_1.") for one in (first_id, second_id))
    assert result.upscaler == "tiny-x4"
    assert result.usage.output_image_tokens == 4 * 8 + 8 * 16
    assert stages.requests[1].pass_ == result.plan.passes[1]


async def test_finished_images_are_enlarged_at_the_end(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    plan = _plan(small_catalogue, n=2, upscale={"scale": 1.5}, reproducibility="exact")
    result = await _result(stages, plan)
    assert [pixels.shape for pixels in _pixels(result)] == [(48, 96, 3)] * 2
    assert result.upscaler == "tiny-x4"
    plain = await _result(stages, _plan(small_catalogue, n=2, reproducibility="exact"))
    for (_, pixels, size, mode), expected in zip(stages.args_of("upscale"), _pixels(plain), strict=True):
        assert np.array_equal(pixels, expected)  # type: ignore[arg-type]
        assert (str(size), mode) == ("96x48", "exact")
    assert result.exactness_key != plain.exactness_key


async def test_images_without_an_upscaler_are_enlarged_bicubically(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    bare = small_catalogue.model_copy(update={"upscalers": ()})
    result = await _result(stages, _plan(bare, hires={"scale": 2}, upscale={"scale": 2}))
    assert (result.upscaler, _pixels(result)[0].shape) == ("bicubic", (128, 256, 3))


async def test_the_weights_of_every_stage_are_recorded(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    controls = [{"kind": "canny", "image": _IMAGE}]
    plan = _plan(small_catalogue, controls=controls, upscale={"scale": 2})
    result = await _result(stages, plan)
    metadata = read_metadata(decoded(result.pictures[0].data))
    assert metadata is not None
    weights = metadata.record["weights"]
    assert isinstance(weights, dict)
    assert set(weights) == {
        "small-sdxl/text_encoders",
        "small-sdxl/unet",
        "small-sdxl/vae",
        "small-canny",
        "tiny-x4",
    }
    assert metadata.record["exactness_key"] == result.exactness_key


async def test_closing_the_iterator_stops_the_work(
    stages: RecordingStages, small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    plan = _plan(small_catalogue, num_inference_steps=150)
    inputs = read_inputs(plan.params, plan.passes[0].size)
    async with aclosing(run(_ID, plan, inputs, request_stages(stages), Reports(steps=True))) as events:
        while not isinstance(await anext(events), Step):
            pass
        assert not stages.ended.is_set()
    assert stages.ended.is_set()
    assert stages.names == ["encode_texts", "denoise"]
    async with asyncio.timeout(10):
        while small_stages.engine.status().num_running:  # noqa: ASYNC110 the engine has no event for it
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("stage", ["encode_texts", "denoise", "decode_latents", "upscale"])
async def test_an_error_of_a_stage_ends_the_events(
    stages: RecordingStages, small_catalogue: Catalogue, stage: str
) -> None:
    stages.failures[stage] = GenerationFailed(f"{stage} failed")
    with pytest.raises(GenerationFailed, match=f"{stage} failed"):
        await _run(stages, _plan(small_catalogue, upscale={"scale": 2}))
    assert stages.names[-1] == stage


async def test_a_stream_without_latents_is_a_lost_replica(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    stages.drops_latents = True
    with pytest.raises(ReplicaLost, match="ended without latents"):
        await _run(stages, _plan(small_catalogue))
