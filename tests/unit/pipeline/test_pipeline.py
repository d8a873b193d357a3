from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from atelier.core.control import Annotation
from atelier.core.errors import (
    AtelierError,
    DeadlineExceeded,
    GenerationFailed,
    InvalidParameter,
    ModelNotFound,
    NotSupported,
    QueueFull,
    TooMuchWork,
)
from atelier.core.params import AnnotateParams, GenerateParams, OutputFormat, UpscaleParams, parse
from atelier.local.stages import LocalStages
from atelier.pipeline.events import Planned, Preview, Step
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.record import RequestRecord
from atelier.pipeline.results import Result
from atelier.pipeline.stages import Annotated, EncodedTexts, Upscaled
from tests.pictures import decoded, encoded, noise, pixels_of
from tests.records import new_record
from tests.stages import RecordingStages

_WAIT_S = 30
_QUICK: dict[str, object] = {"prompt": "x", "size": "64x32", "num_inference_steps": 2}
_IMAGE, _ANOTHER = encoded(noise(64, 32)), encoded(noise(64, 32, seed=1))
_TRANSPARENT = encoded(noise(64, 32, channels=4))


def _params(**fields: Any) -> GenerateParams:
    return parse(GenerateParams, {**_QUICK, **fields})


def _new(index: int = 0) -> RequestRecord:
    return new_record(f"req_{index}")


async def _together(pipeline: Pipeline, *params: GenerateParams) -> list[Result]:
    """The results of requests that are sent at the same time."""
    return await asyncio.gather(*(pipeline.generate(_new(index), one) for index, one in enumerate(params)))


async def test_a_request_becomes_images(pipeline: Pipeline) -> None:
    result = await pipeline.generate(_new(), _params(seed=3, n=2))
    assert result.request_id == "req_0"
    assert [picture.seed for picture in result.pictures] == [3, 4]
    assert [pixels_of(picture.data).shape for picture in result.pictures] == [(32, 64, 3)] * 2


async def test_equal_requests_in_flight_are_made_once(pipeline: Pipeline, stages: RecordingStages) -> None:
    results = await _together(pipeline, *[_params(seed=3) for _ in range(3)])
    assert stages.names == ["encode_texts", "denoise", "decode_latents"]
    assert {result.pictures[0].data for result in results} == {results[0].pictures[0].data}


async def test_each_waiter_of_equal_requests_keeps_its_own_id(pipeline: Pipeline, stages: RecordingStages) -> None:
    records = [_new(index) for index in range(2)]
    results = await asyncio.gather(*(pipeline.generate(record, _params(seed=3)) for record in records))
    assert [result.request_id for result in results] == ["req_0", "req_1"]
    [request] = stages.requests
    assert request.request_id.startswith("req_0.")
    assert [record.shared_with for record in records] == [None, "req_0"]
    assert [(record.model, record.num_steps) for record in records] == [("small-sdxl", 2)] * 2


async def test_equal_requests_one_after_another_are_made_twice(pipeline: Pipeline, stages: RecordingStages) -> None:
    for _ in range(2):
        await pipeline.generate(_new(), _params(seed=3))
    assert stages.names.count("denoise") == 2


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "y"},
        {"prompt_2": "y"},
        {"negative_prompt": "y"},
        {"negative_prompt": ""},
        {"negative_prompt": "", "negative_prompt_2": "y"},
        {"n": 2},
        {"size": "32x64"},
        {"seed": 4},
        {"num_inference_steps": 3},
        {"guidance_scale": 4},
        {"guidance_rescale": 0.5},
        {"sampler": "heun"},
        {"schedule": "trailing"},
        {"sampler": "ddim", "eta": 1},
        {"strength": 0.6},
        {"init_image": _ANOTHER},
        {"mask_image": _ANOTHER},
        {"markup_image": _TRANSPARENT},
        {"controls": [{"kind": "canny", "image": _ANOTHER}]},
        {"upscale": {"scale": 2}},
        {"hires": {"scale": 2}},
        {"output_format": "webp"},
        {"output_format": "webp", "output_compression": 50},
        {"reproducibility": "exact"},
        {"model": "small-sdxl"},
    ],
    ids=lambda other: "-".join(other),
)
async def test_requests_that_differ_in_a_field_are_not_coalesced(
    pipeline: Pipeline, stages: RecordingStages, other: dict[str, object]
) -> None:
    fields = {"seed": 3, "init_image": _IMAGE, "strength": 0.7}
    stages.failures["encode_texts"] = GenerationFailed()
    requests = [
        pipeline.generate(_new(), _params(**fields)),
        pipeline.generate(_new(1), _params(**{**fields, **other})),
    ]
    errors = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(error) for error in errors] == [GenerationFailed] * 2
    assert stages.names.count("encode_texts") == 2


async def test_requests_without_a_seed_are_never_coalesced(pipeline: Pipeline, stages: RecordingStages) -> None:
    first, second = await _together(pipeline, _params(), _params())
    assert stages.names.count("denoise") == 2
    assert first.plan.seeds != second.plan.seeds


async def test_the_engine_learns_the_priority_of_all_passes_and_whether_there_is_a_deadline(
    pipeline: Pipeline, stages: RecordingStages
) -> None:
    await pipeline.generate(_new(0), _params(hires={"scale": 2}, priority="batch"))
    await pipeline.generate(_new(1), _params(hires={"scale": 2}, deadline_s=_WAIT_S))
    assert [request.priority for request in stages.requests] == ["batch", "batch", "standard", "standard"]
    assert [request.has_deadline for request in stages.requests] == [False, False, True, True]


async def test_requests_with_a_deadline_are_never_coalesced(pipeline: Pipeline, stages: RecordingStages) -> None:
    await _together(pipeline, _params(seed=3, deadline_s=_WAIT_S), _params(seed=3, deadline_s=_WAIT_S))
    assert stages.names.count("denoise") == 2


async def test_streams_are_never_coalesced(pipeline: Pipeline, stages: RecordingStages) -> None:
    async def consume(index: int) -> None:
        async for _ in pipeline.stream(_new(index), _params(seed=3)):
            pass

    await asyncio.gather(consume(0), consume(1))
    assert stages.names.count("denoise") == 2


async def test_a_waiter_who_leaves_does_not_stop_the_others(pipeline: Pipeline, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    first, second = (asyncio.create_task(pipeline.generate(_new(index), _params(seed=3))) for index in range(2))
    await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    stages.may_denoise.set()
    assert (await second).request_id == "req_1"
    assert stages.names.count("denoise") == 1


async def test_coalesced_work_stops_when_all_waiters_have_left(pipeline: Pipeline, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    waiters = [asyncio.create_task(pipeline.generate(_new(index), _params(seed=3))) for index in range(2)]
    await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait_for(stages.ended.wait(), _WAIT_S)
    assert stages.names == ["encode_texts", "denoise"]


async def test_a_cancelled_request_stops_its_work(pipeline: Pipeline, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    request = asyncio.create_task(pipeline.generate(_new(), _params()))
    await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    request.cancel()
    await asyncio.wait_for(stages.ended.wait(), _WAIT_S)


async def test_a_stream_has_the_events_that_were_asked_for(pipeline: Pipeline) -> None:
    events = [event async for event in pipeline.stream(_new(), _params(), report_steps=True, num_previews=1)]
    assert [type(event) for event in events] == [Planned, Step, Preview, Step, Result]
    plain = [event async for event in pipeline.stream(_new(), _params())]
    assert [type(event) for event in plain] == [Planned, Result]


async def test_closing_a_stream_stops_the_work(pipeline: Pipeline, stages: RecordingStages) -> None:
    params = _params(num_inference_steps=150)
    async with aclosing(pipeline.stream(_new(), params, report_steps=True)) as events:
        while not isinstance(await anext(events), Step):
            pass
        assert not stages.ended.is_set()
    assert stages.ended.is_set()
    assert "decode_latents" not in stages.names


async def test_previews_that_cannot_be_made_are_refused_before_any_work(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    blind = small_catalogue.models[0].model_copy(update={"latent_rgb": None})
    pipeline = Pipeline(
        stages, small_catalogue.model_copy(update={"models": (blind,)}), PipelineLimits(max_pixel_steps=10**6)
    )
    with pytest.raises(NotSupported, match="small-sdxl does not support previews") as caught:
        await anext(pipeline.stream(_new(), _params(), num_previews=1))
    assert caught.value.param == "partial_images"
    assert stages.calls == []
    assert (await pipeline.generate(_new(), _params())).pictures
    decoder = blind.model_copy(update={"preview_decoder": Files(folder=Path("decoder"))})
    Pipeline(
        stages, small_catalogue.model_copy(update={"models": (decoder,)}), PipelineLimits(max_pixel_steps=10**6)
    ).check_previews(None, 1)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "nope"}, ModelNotFound, "model"),
        ({"size": "60x32"}, InvalidParameter, "size"),
        ({"num_inference_steps": 150, "n": 10}, TooMuchWork, None),
        ({"init_image": b"x"}, InvalidParameter, "init_image"),
        ({"init_image": _IMAGE[:2000]}, InvalidParameter, "init_image"),
        ({"init_image": _TRANSPARENT, "hires": {"scale": 2}}, NotSupported, "hires"),
        ({"init_image": _IMAGE, "mask_image": _ANOTHER, "hires": {"scale": 2}}, NotSupported, "hires"),
        ({"controls": [{"kind": "canny", "image": b"x"}]}, InvalidParameter, "controls[0].image"),
        ({"controls": [{"kind": "canny", "image": _IMAGE[:2000]}]}, InvalidParameter, "controls[0].image"),
    ],
)
async def test_a_request_is_refused_before_any_model_sees_it(
    pipeline: Pipeline,
    stages: RecordingStages,
    fields: dict[str, object],
    kind: type[AtelierError],
    param: str | None,
) -> None:
    for seed in (-1, 3):
        with pytest.raises(kind) as caught:
            await pipeline.generate(_new(), _params(seed=seed, **fields))
        assert caught.value.param == param
    with pytest.raises(kind):
        await anext(pipeline.stream(_new(), _params(**fields)))
    assert stages.calls == []


async def test_a_bad_size_is_refused_before_images_are_decoded(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await pipeline.generate(_new(), _params(size="60x32", init_image=_IMAGE[:2000]))
    assert caught.value.param == "size"


async def test_work_up_to_the_limit_is_done(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    work = 64 * 32 * 2
    assert await Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=work)).generate(_new(), _params())
    with pytest.raises(TooMuchWork):
        await Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=work - 1)).generate(_new(), _params())


async def test_a_deadline_ends_the_work(pipeline: Pipeline, stages: RecordingStages) -> None:
    stages.may_denoise.clear()
    with pytest.raises(DeadlineExceeded) as caught:
        await pipeline.generate(_new(), _params(deadline_s=0.2))
    assert caught.value.param == "deadline_s"
    assert stages.ended.is_set() == stages.denoising.is_set()


async def test_a_deadline_covers_the_reading_of_images(pipeline: Pipeline, stages: RecordingStages) -> None:
    with pytest.raises(DeadlineExceeded):
        await pipeline.generate(_new(), _params(init_image=_large(), deadline_s=0.05))
    assert stages.calls == []


@pytest.mark.parametrize("fields", [{}, {"init_image": _IMAGE}], ids=["text", "small image"])
async def test_others_do_not_wait_for_large_images(
    pipeline: Pipeline, stages: RecordingStages, fields: dict[str, object]
) -> None:
    requests = (pipeline.generate(_new(seed), _params(init_image=_large(), seed=seed)) for seed in range(8))
    waiting = [asyncio.create_task(request) for request in requests]
    await stages.denoising.wait()
    assert (await pipeline.generate(_new(9), _params(**fields))).pictures
    num_read = stages.names.count("encode_latents") - len(fields)
    assert num_read < 8
    for request in waiting:
        request.cancel()


async def test_an_image_is_enlarged(pipeline: Pipeline, stages: RecordingStages) -> None:
    picture = noise(24, 16, channels=4)
    params = parse(UpscaleParams, {"image": encoded(picture), "scale": 2.5, "output_format": "webp"})
    upscaled = await pipeline.upscale(_new(), params)
    [(upscaler, pixels, size, _)] = stages.args_of("upscale")
    assert (upscaler, str(size)) == ("tiny-x4", "60x40")
    assert np.array_equal(pixels, np.asarray(picture))  # type: ignore[arg-type]
    assert (str(upscaled.size), upscaled.upscaler) == ("60x40", "tiny-x4")
    file = decoded(upscaled.data)
    assert (file.format, file.size, file.mode) == ("WEBP", (60, 40), "RGBA")


async def test_an_image_that_is_too_large_is_not_enlarged(pipeline: Pipeline, stages: RecordingStages) -> None:
    params = parse(UpscaleParams, {"image": encoded(Image.new("1", (2000, 2000)))})
    with pytest.raises(InvalidParameter) as caught:
        await pipeline.upscale(_new(), params)
    assert caught.value.param == "scale"
    assert stages.calls == []


async def test_an_image_is_annotated(pipeline: Pipeline, stages: RecordingStages) -> None:
    fields = {"image": _IMAGE, "kind": "canny", "low_threshold": 10, "high_threshold": 20}
    drawn = await pipeline.annotate(_new(), parse(AnnotateParams, fields))
    [(annotation, pixels)] = stages.args_of("annotate")
    assert annotation == Annotation("canny", low_threshold=10, high_threshold=20)
    assert np.array_equal(pixels, np.asarray(noise(64, 32)))  # type: ignore[arg-type]
    assert (drawn.kind, decoded(drawn.data).size) == ("canny", (64, 32))


@pytest.mark.parametrize(("output_format", "pillows"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_an_enlargement_has_the_format_that_was_asked_for(
    pipeline: Pipeline, output_format: OutputFormat, pillows: str
) -> None:
    params = parse(UpscaleParams, {"image": _IMAGE, "scale": 1.5, "output_format": output_format})
    file = decoded((await pipeline.upscale(_new(), params)).data)
    assert (file.format, file.size) == (pillows, (96, 48))


async def test_an_enlargement_has_the_quality_that_was_asked_for(pipeline: Pipeline) -> None:
    small, large = [
        len((await pipeline.upscale(_new(), parse(UpscaleParams, {**fields, "output_compression": quality}))).data)
        for fields in ({"image": _IMAGE, "output_format": "jpeg"},)
        for quality in (5, 100)
    ]
    assert small < large


async def test_control_maps_are_drawn_over_white(pipeline: Pipeline, stages: RecordingStages) -> None:
    transparent = encoded(Image.new("RGBA", (64, 32), (0, 0, 0, 0)))
    await pipeline.annotate(_new(), parse(AnnotateParams, {"image": transparent, "kind": "canny"}))
    [(_, pixels)] = stages.args_of("annotate")
    assert (np.asarray(pixels) == 255).all()


@pytest.mark.slow
@pytest.mark.parametrize(("share", "kind"), [(1.0, QueueFull), (0.9, InvalidParameter)], ids=["whole", "truncated"])
async def test_memory_of_large_images_is_bounded(
    pipeline: Pipeline, stages: RecordingStages, share: float, kind: type[AtelierError]
) -> None:
    """Each of the five images takes 67 MB when it is decoded; all at once would take 335 MB."""
    stages.failures["encode_texts"] = QueueFull()
    large = _large()
    params = _params(init_image=large[: int(share * len(large))])
    before_bytes = peak_bytes = _resident_bytes()
    requests = (pipeline.generate(_new(index), params) for index in range(5))
    errors = asyncio.gather(*requests, return_exceptions=True)
    while not errors.done():
        peak_bytes = max(peak_bytes, _resident_bytes())
        await asyncio.sleep(0.01)
    assert [type(error) for error in errors.result()] == [kind] * 5
    assert peak_bytes - before_bytes < 250e6


@cache
def _large() -> bytes:
    return encoded(Image.new("RGB", (4096, 4096), "red"))


def _resident_bytes() -> int:
    """Memory of this process and of those that it started."""
    this = psutil.Process()
    return sum(process.memory_info().rss for process in (this, *this.children(recursive=True)))


async def test_a_generation_that_would_wait_too_long_is_rejected(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    pipeline = Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=10**7, max_wait_s=1e-6))
    await pipeline.generate(_new(), _params(seed=1))
    stages.may_denoise.clear()
    stages.denoising.clear()
    running = asyncio.create_task(pipeline.generate(_new(), _params(seed=2)))
    await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    num_requests = len(stages.requests)
    with pytest.raises(QueueFull) as caught:
        await pipeline.generate(_new(), _params(seed=3))
    assert caught.value.retry_after_s >= 1
    with pytest.raises(QueueFull), pipeline.arriving():
        pass
    stages.may_denoise.set()
    await running
    assert len(stages.requests) == num_requests
    await pipeline.generate(_new(), _params(seed=3))


@pytest.mark.parametrize("operation", ["upscale", "annotate"])
async def test_work_on_images_that_would_wait_too_long_is_rejected(
    stages: RecordingStages, small_catalogue: Catalogue, operation: str
) -> None:
    pipeline = Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=1, max_wait_s=1e-6))
    upscale = parse(UpscaleParams, {"image": _IMAGE, "scale": 1})
    annotate = parse(AnnotateParams, {"image": _IMAGE, "kind": "canny"})

    async def answer() -> object:
        return await (
            pipeline.upscale(_new(), upscale) if operation == "upscale" else pipeline.annotate(_new(), annotate)
        )

    await answer()
    answers = await asyncio.gather(*(answer() for _ in range(8)), return_exceptions=True)
    rejected = [error for error in answers if isinstance(error, QueueFull)]
    assert 1 <= len(rejected) < 8
    assert len(stages.names) == 9 - len(rejected)


async def test_control_maps_do_not_wait_for_enlargements(stages: RecordingStages, small_catalogue: Catalogue) -> None:
    pipeline = Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=1, max_wait_s=1e-6))
    upscale = parse(UpscaleParams, {"image": _IMAGE, "scale": 1})
    annotate = parse(AnnotateParams, {"image": _IMAGE, "kind": "canny"})
    await pipeline.upscale(_new(), upscale)
    upscaled, drawn = await asyncio.gather(pipeline.upscale(_new(), upscale), pipeline.annotate(_new(), annotate))
    assert (upscaled.upscaler, drawn.kind) == ("tiny-x4", "canny")


async def test_limits_change_for_the_requests_that_arrive_later(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    pipeline = Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=64 * 32 * 2))
    assert (await pipeline.generate(_new(), _params())).pictures
    pipeline.set_limits(PipelineLimits(max_pixel_steps=64 * 32 * 2 - 1))
    with pytest.raises(TooMuchWork):
        await pipeline.generate(_new(), _params())
    pipeline.set_limits(PipelineLimits(max_pixel_steps=10**6, max_wait_s=1e-6))
    stages.may_denoise.clear()
    running = asyncio.create_task(pipeline.generate(_new(), _params()))
    await asyncio.wait_for(stages.denoising.wait(), _WAIT_S)
    with pytest.raises(QueueFull):
        await pipeline.generate(_new(), _params())
    stages.may_denoise.set()
    assert (await running).pictures


@pytest.mark.parametrize("operation", ["generate", "upscale", "annotate"])
async def test_a_request_without_deadline_ends_at_the_default(
    small_stages: LocalStages, small_catalogue: Catalogue, operation: str
) -> None:
    pipeline = Pipeline(
        _HangingStages(small_stages), small_catalogue, PipelineLimits(max_pixel_steps=10**6, default_deadline_s=0.2)
    )
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "generate": lambda: pipeline.generate(_new(), _params()),
        "upscale": lambda: pipeline.upscale(_new(), parse(UpscaleParams, {"image": _IMAGE, "scale": 2})),
        "annotate": lambda: pipeline.annotate(_new(), parse(AnnotateParams, {"image": _IMAGE, "kind": "canny"})),
    }
    with pytest.raises(DeadlineExceeded, match=r"within the 0\.2 s that this server allows"):
        await calls[operation]()


class _HangingStages(RecordingStages):
    """Stages that never answer."""

    async def encode_texts(self, *_: object) -> EncodedTexts:
        return await asyncio.Future()

    async def upscale(self, *_: object) -> Upscaled:
        return await asyncio.Future()

    async def annotate(self, *_: object) -> Annotated:
        return await asyncio.Future()


async def test_a_shared_generation_runs_in_a_context_of_its_own(
    stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    seen: list[str] = []
    marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="empty")

    def new_context() -> contextvars.Context:
        context = contextvars.Context()
        context.run(marker.set, f"made in {marker.get()}")
        return context

    class Watched(RecordingStages):
        async def encode_texts(self, *args: Any) -> EncodedTexts:
            seen.append(marker.get())
            return await super().encode_texts(*args)

    pipeline = Pipeline(
        Watched(stages), small_catalogue, PipelineLimits(max_pixel_steps=10**6), new_context=new_context
    )
    marker.set("the caller's")
    await pipeline.generate(_new(), _params(seed=3))
    assert seen == ["made in the caller's"]
