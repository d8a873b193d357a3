"""The cache of results: what is taken from it, what is made anew, and that its images are those of the request."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import ReplicaLost
from atelier.core.origin import Origin
from atelier.core.params import GenerateParams, parse
from atelier.imaging.metadata import read_metadata
from atelier.local.stages import LocalStages
from atelier.pipeline.cache import ResultCache
from atelier.pipeline.events import Planned
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.results import Result
from atelier.pipeline.stages import ModelStage
from tests.caches import cache_in
from tests.lora_files import StagesWithoutLoras, with_loras, write_lora
from tests.pictures import decoded, encoded, noise, pixels_of
from tests.records import new_record
from tests.stages import RecordingStages

_LIMITS = PipelineLimits(max_pixel_steps=1_000_000)
_QUICK: dict[str, object] = {"prompt": "x", "size": "64x32", "num_inference_steps": 2, "seed": 3}
_IMAGE, _ANOTHER = encoded(noise(64, 32)), encoded(noise(64, 32, seed=1))
_CONTROL = {"kind": "canny", "image": _IMAGE, "annotate": True}

NewPipeline = Callable[[ResultCache], Pipeline]


def _params(**fields: Any) -> GenerateParams:
    return parse(GenerateParams, {**_QUICK, **fields})


@pytest.fixture
async def cache(tmp_path: Path, stages: RecordingStages, small_catalogue: Catalogue) -> AsyncIterator[ResultCache]:
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        yield cache


@pytest.fixture
def pipeline(stages: RecordingStages, small_catalogue: Catalogue, cache: ResultCache) -> Pipeline:
    return Pipeline(stages, small_catalogue, _LIMITS, cache=cache)


async def _made(pipeline: Pipeline, **fields: Any) -> Result:
    return await pipeline.generate(new_record(), _params(**fields))


async def test_an_equal_request_gets_the_same_files(pipeline: Pipeline, stages: RecordingStages) -> None:
    fields = {"n": 2, "controls": [_CONTROL], "output_format": "webp", "upscale": {"scale": 2}}
    first = await _made(pipeline, **fields)
    num_calls = len([name for name in stages.names if name != "origin"])
    record = new_record("again")
    again = await pipeline.generate(record, _params(**fields))
    assert (first.is_cached, again.is_cached, record.is_cached) == (False, True, True)
    assert again.request_id == "again"
    assert again.pictures == first.pictures
    assert again.control_maps == first.control_maps
    assert again.control_maps
    assert (again.usage, again.upscaler, again.exactness_key) == (first.usage, first.upscaler, first.exactness_key)
    assert again.plan == first.plan
    assert len([name for name in stages.names if name != "origin"]) == num_calls


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "y"},
        {"seed": 4},
        {"n": 2},
        {"num_inference_steps": 3},
        {"guidance_scale": 2.5},
        {"size": "32x64"},
        {"reproducibility": "exact"},
        {"negative_prompt": ""},
        {"init_image": _IMAGE},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_request_is_made(pipeline: Pipeline, other: dict[str, object]) -> None:
    await _made(pipeline)
    assert not (await _made(pipeline, **other)).is_cached


async def test_another_input_image_makes_another_result(pipeline: Pipeline) -> None:
    await _made(pipeline, init_image=_IMAGE)
    assert not (await _made(pipeline, init_image=_ANOTHER)).is_cached
    assert (await _made(pipeline, init_image=_IMAGE)).is_cached


@pytest.mark.parametrize("fields", [{"priority": "batch"}, {"deadline_s": 60.0}])
async def test_what_changes_no_image_changes_no_key(pipeline: Pipeline, fields: dict[str, object]) -> None:
    await _made(pipeline)
    assert (await _made(pipeline, **fields)).is_cached


async def test_a_request_without_a_seed_is_made_each_time(pipeline: Pipeline) -> None:
    first, again = await _made(pipeline, seed=-1), await _made(pipeline, seed=-1)
    assert not again.is_cached
    assert first.plan.seeds != again.plan.seeds
    assert not (await _made(pipeline, seed=first.plan.seeds[0])).is_cached, "it was not kept either"


async def test_a_request_without_a_seed_may_prefer_what_is_there(pipeline: Pipeline) -> None:
    first, again = [await _made(pipeline, seed=-1, cache="prefer") for _ in range(2)]
    assert (first.is_cached, again.is_cached) == (False, True)
    assert again.pictures == first.pictures
    assert (await _made(pipeline, seed=first.plan.seeds[0])).pictures == first.pictures
    other = await _made(pipeline, seed=-1, cache="prefer", prompt="y")
    assert not other.is_cached
    assert other.plan.seeds != first.plan.seeds


async def test_the_cache_may_be_left_out(pipeline: Pipeline) -> None:
    await _made(pipeline, cache="off")
    assert not (await _made(pipeline)).is_cached, "it was not kept"
    assert not (await _made(pipeline, cache="off")).is_cached, "it was not looked for"


async def test_a_cache_of_no_size_is_off(pipeline: Pipeline, cache: ResultCache) -> None:
    cache.max_bytes = 0
    await _made(pipeline)
    cache.max_bytes = 1_000_000
    assert not (await _made(pipeline)).is_cached, "it was not kept"
    cache.max_bytes = 0
    assert not (await _made(pipeline)).is_cached, "it was not looked for"


async def test_a_stream_is_answered_from_the_cache(pipeline: Pipeline) -> None:
    first = await _made(pipeline)
    async with aclosing(pipeline.stream(new_record(), _params(), report_steps=True)) as stream:
        events = [event async for event in stream]
    planned, result = events
    assert isinstance(planned, Planned)
    assert isinstance(result, Result)
    assert result.pictures == first.pictures


async def test_another_file_format_starts_from_a_png(pipeline: Pipeline, stages: RecordingStages) -> None:
    await _made(pipeline, n=2)
    jpeg = await _made(pipeline, n=2, output_format="jpeg", output_compression=80)
    assert stages.names.count("denoise") == 1
    alone = await _made(pipeline, n=2, output_format="jpeg", output_compression=80, cache="off")
    assert [picture.data for picture in jpeg.pictures] == [picture.data for picture in alone.pictures]
    assert (jpeg.usage, jpeg.exactness_key) == (alone.usage, alone.exactness_key)
    assert (await _made(pipeline, n=2, output_format="jpeg", output_compression=80)).is_cached, "it is kept, too"


@pytest.mark.parametrize("output_format", ["webp", "png"])
async def test_an_enlargement_starts_from_the_image(
    pipeline: Pipeline, stages: RecordingStages, output_format: str
) -> None:
    await _made(pipeline)
    fields = {"upscale": {"scale": 2}, "output_format": output_format}
    large = await _made(pipeline, **fields)
    assert (stages.names.count("denoise"), stages.names.count("upscale")) == (1, 1)
    alone = await _made(pipeline, **fields, cache="off")
    assert pixels_of(large.pictures[0].data).shape == (64, 128, 3)
    assert large.pictures == alone.pictures
    assert (large.upscaler, large.exactness_key) == (alone.upscaler, alone.exactness_key)


async def test_another_format_of_an_enlargement_is_not_enlarged_again(
    pipeline: Pipeline, stages: RecordingStages
) -> None:
    large = await _made(pipeline, upscale={"scale": 2})
    webp = await _made(pipeline, upscale={"scale": 2}, output_format="webp")
    assert stages.names.count("upscale") == 1
    assert pixels_of(webp.pictures[0].data).shape == (64, 128, 3)
    assert webp.upscaler == large.upscaler


async def test_a_lossy_file_is_no_start(pipeline: Pipeline, stages: RecordingStages) -> None:
    await _made(pipeline, output_format="jpeg")
    await _made(pipeline, output_format="png")
    assert stages.names.count("denoise") == 2


async def test_files_from_the_cache_say_how_they_were_made(pipeline: Pipeline) -> None:
    await _made(pipeline)
    webp = await _made(pipeline, output_format="webp", upscale={"scale": 2})
    metadata = read_metadata(decoded(webp.pictures[0].data))
    assert metadata is not None
    assert metadata.record["parameters"]["output_format"] == "webp"  # type: ignore[index]
    assert metadata.record["exactness_key"] == webp.exactness_key


async def test_two_processes_share_their_results(
    pipeline: Pipeline, tmp_path: Path, stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    first = await _made(pipeline)
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        other = Pipeline(stages, small_catalogue, _LIMITS, cache=cache)
        again = await _made(other)
    assert again.is_cached
    assert again.pictures == first.pictures


async def test_a_lora_whose_file_is_replaced_makes_another_key(
    tmp_path: Path, small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    file = write_lora(tmp_path / "loras", "style")
    catalogue, stages = with_loras(small_catalogue, tmp_path / "loras"), StagesWithoutLoras(small_stages)
    async with cache_in(tmp_path, stages, catalogue) as cache:
        pipeline, fields = Pipeline(stages, catalogue, _LIMITS, cache=cache), {"loras": [{"model": "style"}]}
        await _made(pipeline, **fields)
        assert (await _made(pipeline, **fields)).is_cached
        assert not (await _made(pipeline, loras=[{"model": "style", "weight": 0.5}])).is_cached
        os.utime(file, (1, 1))
        assert not (await _made(pipeline, **fields)).is_cached


async def test_an_old_result_is_made_again(
    tmp_path: Path, stages: RecordingStages, small_catalogue: Catalogue
) -> None:
    async with cache_in(tmp_path, stages, small_catalogue, ttl=timedelta(0)) as cache:
        pipeline = Pipeline(stages, small_catalogue, _LIMITS, cache=cache)
        await _made(pipeline)
        assert not (await _made(pipeline)).is_cached


async def test_requests_that_share_a_cached_result_both_say_so(pipeline: Pipeline) -> None:
    await _made(pipeline)
    records = [new_record("a"), new_record("b")]
    results = await asyncio.gather(*(pipeline.generate(record, _params()) for record in records))
    assert all(result.is_cached for result in results)
    assert all(record.is_cached for record in records)


class _Moved(RecordingStages):
    """Stages whose Denoiser says that it runs elsewhere."""

    async def origin(self, stage: ModelStage) -> Origin:
        origin = await super().origin(stage)
        return origin if stage != "denoiser" else Origin("elsewhere", origin.weights)


async def test_what_was_made_elsewhere_is_not_kept(
    tmp_path: Path, small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    stages = _Moved(small_stages)
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        pipeline = Pipeline(stages, small_catalogue, _LIMITS, cache=cache)
        await _made(pipeline)
        assert not (await _made(pipeline)).is_cached


class _Updated(RecordingStages):
    """Stages one of which says that it holds other weights."""

    def __init__(self, stages: LocalStages, updated: ModelStage) -> None:
        super().__init__(stages)
        self.updated = updated

    async def origin(self, stage: ModelStage) -> Origin:
        origin = await super().origin(stage)
        if stage != self.updated:
            return origin
        return Origin(origin.place, dict.fromkeys(origin.weights, "other"))


@pytest.mark.parametrize("stage", ["text_encoder", "denoiser", "autoencoder"])
async def test_other_weights_make_another_key(
    pipeline: Pipeline, tmp_path: Path, small_stages: LocalStages, small_catalogue: Catalogue, stage: ModelStage
) -> None:
    await _made(pipeline)
    stages = _Updated(small_stages, stage)
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        assert not (await _made(Pipeline(stages, small_catalogue, _LIMITS, cache=cache))).is_cached


@pytest.mark.parametrize(
    ("stage", "fields"), [("annotator", {"controls": [_CONTROL]}), ("upscaler", {"upscale": {"scale": 2}})]
)
async def test_stages_that_a_request_does_not_call_do_not_matter(
    pipeline: Pipeline,
    tmp_path: Path,
    small_stages: LocalStages,
    small_catalogue: Catalogue,
    stage: ModelStage,
    fields: dict[str, object],
) -> None:
    await _made(pipeline)
    await _made(pipeline, **fields)
    stages = _Updated(small_stages, stage)
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        updated = Pipeline(stages, small_catalogue, _LIMITS, cache=cache)
        assert (await _made(updated)).is_cached
        again = await _made(updated, **fields)
        assert not again.is_cached
    assert (stage in stages.names) is False
    assert ("origin", (stage,)) in stages.calls


async def test_what_other_weights_have_made_is_not_kept(
    tmp_path: Path, small_stages: LocalStages, small_catalogue: Catalogue
) -> None:
    stages = _Updated(small_stages, "denoiser")
    async with cache_in(tmp_path, stages, small_catalogue) as cache:
        pipeline = Pipeline(stages, small_catalogue, _LIMITS, cache=cache)
        await _made(pipeline)
        stages.updated = "upscaler"
        assert not (await _made(pipeline)).is_cached, "made by weights that the stage did not tell"
        assert (await _made(pipeline)).is_cached, "the stages were asked again"


async def test_a_lost_file_is_made_again(pipeline: Pipeline, tmp_path: Path) -> None:
    first = await _made(pipeline)
    shutil.rmtree(tmp_path / "results")
    (tmp_path / "results").mkdir()
    again = await _made(pipeline)
    assert not again.is_cached
    np.testing.assert_array_equal(pixels_of(again.pictures[0].data), pixels_of(first.pictures[0].data))
    assert (await _made(pipeline)).is_cached


async def test_a_cache_that_fails_costs_no_request(
    pipeline: Pipeline, stages: RecordingStages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stages.failures["origin"] = ReplicaLost()
    assert (await _made(pipeline)).pictures
    assert "cannot be read" in caplog.text
    assert "cannot be cached" in caplog.text
    del stages.failures["origin"]
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("DROP TABLE results")
        connection.execute("DROP TABLE seeds")
    assert (await _made(pipeline)).pictures
    assert (await _made(pipeline, cache="prefer", seed=-1)).pictures
    assert "draws a seed of its own" in caplog.text


async def test_requests_are_counted_as_hits_and_misses(pipeline: Pipeline, cache: ResultCache) -> None:
    result = await _made(pipeline)
    await _made(pipeline)
    await _made(pipeline, output_format="webp")
    await _made(pipeline, cache="off")
    stats = await cache.stats()
    assert (stats.hits, stats.misses, stats.entries) == (2, 1, 2)
    assert stats.num_bytes > len(result.pictures[0].data)


async def test_clearing_deletes_results_and_their_files(
    pipeline: Pipeline, cache: ResultCache, tmp_path: Path
) -> None:
    await _made(pipeline, controls=[_CONTROL])
    assert len(list((tmp_path / "results").glob("*.png"))) == 2
    assert await cache.clear(max_age_s=3600) == 0
    assert (await _made(pipeline, controls=[_CONTROL])).is_cached
    assert await cache.clear(max_age_s=0) == 1
    assert list((tmp_path / "results").glob("*.png")) == []
    assert not (await _made(pipeline, controls=[_CONTROL])).is_cached
