"""The work of jobs, by the small models: what a job makes is what a direct request makes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import GenerationFailed
from atelier.core.jobs import Job, JobId, Operation, Progress
from atelier.core.params import AnnotateParams, GenerateParams, Params, UpscaleParams, parse
from atelier.jobs.params import stored
from atelier.jobs.perform import Performer
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise, pixels_of
from tests.records import new_record
from tests.stages import RecordingStages

_QUICK = {"prompt": "x", "size": "64x32", "num_inference_steps": 4, "reproducibility": "exact"}
_IMAGE = encoded(noise(64, 32))


class _Desk:
    """Performs jobs, and keeps the records and the progress of their attempts."""

    def __init__(self, pipeline: Pipeline, blobs: BlobStore) -> None:
        self.pipeline, self.blobs = pipeline, blobs
        self.records: list[RequestRecord] = []
        self.progress: list[Progress] = []
        self._performer = Performer(pipeline, blobs, self.records.append)

    async def outcome(
        self, operation: Operation, params: Params, *, attempts: int = 1, num_previews: int = 0
    ) -> Mapping[str, Any]:
        job = Job(
            id=JobId("job_1"),
            owner="",
            operation=operation,
            params=await stored(params, self.blobs),
            work=1.0,
            priority="standard",
            rank=0,
            state="running",
            created_at=0.0,
            due_at=0.0,
            deadline_at=None,
            started_at=0.0,
            finished_at=None,
            attempts=attempts,
            deaths=0,
            is_cancel_requested=False,
            progress=None,
            result=None,
            error=None,
            num_previews=num_previews,
        )
        return await self._performer.perform(job, self.progress.append)

    async def file(self, named: Mapping[str, Any]) -> bytes:
        data = await self.blobs.get(named["file"])
        assert data is not None
        return data


@pytest.fixture
def desk(pipeline: Pipeline, tmp_path: Path) -> _Desk:
    return _Desk(pipeline, BlobStore((tmp_path / "blobs").as_uri(), ttl=timedelta(hours=1)))


async def test_a_generation_makes_the_files_of_a_direct_request(desk: _Desk) -> None:
    plan = await desk.pipeline.plan(parse(GenerateParams, {**_QUICK, "n": 2}))
    direct = await desk.pipeline.generate(new_record("req_1"), plan.params)
    outcome = await desk.outcome("generate", plan.params)
    assert [await desk.file(image) for image in outcome["images"]] == [picture.data for picture in direct.pictures]
    assert [image["seed"] for image in outcome["images"]] == list(plan.seeds)
    assert outcome["images"][1]["parameters"] == plan.parameters(plan.seeds[1])
    assert (outcome["size"], outcome["output_format"], outcome["upscaler"]) == ("64x32", "png", None)
    assert outcome["exactness_key"] == direct.exactness_key
    assert outcome["usage"]["output_image_tokens"] == direct.usage.output_image_tokens


async def test_progress_is_reported_with_previews_and_at_the_end(desk: _Desk) -> None:
    params = (await desk.pipeline.plan(parse(GenerateParams, {**_QUICK, "num_inference_steps": 12, "n": 2}))).params
    await desk.outcome("generate", params, num_previews=2)
    assert {one.total for one in desk.progress} == {12}
    previewed = [one for one in desk.progress if one.previews]
    assert {4, 8, 12} == {one.step for one in previewed}
    assert len({one.previews for one in previewed}) == 2
    for name in previewed[-1].previews:
        assert pixels_of(await desk.file({"file": name})).shape == (32, 64, 3)
    assert desk.progress[-1].step == 12


async def test_few_steps_are_reported(desk: _Desk, stages: RecordingStages) -> None:
    await desk.outcome("generate", (await desk.pipeline.plan(parse(GenerateParams, _QUICK))).params)
    assert [request.report_steps for request in stages.requests] == [False]
    assert desk.progress[-1].step == 4


async def test_each_attempt_has_an_id_and_a_record_of_its_own(desk: _Desk, stages: RecordingStages) -> None:
    params = (await desk.pipeline.plan(parse(GenerateParams, _QUICK))).params
    for attempts in (1, 2):
        await desk.outcome("generate", params, attempts=attempts)
    assert len({request.request_id for request in stages.requests}) == 2
    assert [(one.request_id, one.endpoint, one.status) for one in desk.records] == [
        ("job_1-1", "job generate", 200),
        ("job_1-2", "job generate", 200),
    ]


async def test_drawn_control_maps_are_stored(desk: _Desk) -> None:
    controls = [{"kind": "canny", "image": _IMAGE, "annotate": True}]
    plan = await desk.pipeline.plan(parse(GenerateParams, {**_QUICK, "controls": controls}))
    [drawn] = (await desk.outcome("generate", plan.params))["control_maps"]
    assert drawn["kind"] == "canny"
    assert pixels_of(await desk.file(drawn)).shape == (32, 64, 3)


async def test_an_image_is_enlarged(desk: _Desk) -> None:
    outcome = await desk.outcome("upscale", parse(UpscaleParams, {"image": _IMAGE, "scale": 2}))
    assert pixels_of(await desk.file(outcome["images"][0])).shape == (64, 128, 3)
    assert (outcome["size"], outcome["output_format"]) == ("128x64", "png")


async def test_a_control_map_is_drawn(desk: _Desk) -> None:
    outcome = await desk.outcome("annotate", parse(AnnotateParams, {"image": _IMAGE, "kind": "canny"}))
    assert pixels_of(await desk.file(outcome["images"][0])).shape == (32, 64, 3)
    assert (outcome["kind"], outcome["size"]) == ("canny", "64x32")


async def test_an_attempt_that_fails_is_recorded_with_its_error(desk: _Desk, stages: RecordingStages) -> None:
    stages.failures["upscale"] = GenerationFailed()
    with pytest.raises(GenerationFailed):
        await desk.outcome("upscale", parse(UpscaleParams, {"image": _IMAGE}))
    assert [(one.status, one.code) for one in desk.records] == [(500, "generation_failed")]
