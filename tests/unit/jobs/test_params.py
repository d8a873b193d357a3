"""Params of jobs survive being stored: the same images can be made from what is read again."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import NotFound
from atelier.core.jobs import Operation
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams, parse
from atelier.jobs.params import loaded, stored
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded, noise

_IMAGE, _MASK = encoded(noise(64, 32)), encoded(noise(64, 32, channels=4))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore((tmp_path / "blobs").as_uri(), ttl=timedelta(hours=1))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3, "seed": 5, "priority": "batch", "deadline_s": 8.5, "output_format": "webp"},
        {"negative_prompt": "", "prompt_2": "y", "eta": 0.5, "sampler": "ddim", "guidance_rescale": 0.3},
        {"init_image": _IMAGE, "mask_image": _MASK, "strength": 0.5},
        {"init_image": _IMAGE, "markup_image": _MASK},
        {"hires": {"scale": 2}, "upscale": {"scale": 3.0}},
        {"controls": [{"kind": "canny", "image": _IMAGE, "annotate": True, "scale": 0.7, "end": 0.5}]},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
async def test_resolved_params_are_read_as_they_were_stored(
    pipeline: Pipeline, blobs: BlobStore, fields: dict[str, Any]
) -> None:
    asked = parse(GenerateParams, {"prompt": "x", "size": "64x32", "num_inference_steps": 4, **fields})
    plan = await pipeline.plan(asked)
    written = json.dumps(await stored(plan.params, blobs))
    assert len(written) < 1500, "images are named, not held"
    params = await loaded("generate", json.loads(written), blobs)
    assert isinstance(params, GenerateParams)
    again = await pipeline.plan(params)
    assert again.passes == plan.passes
    assert again.prompts == plan.prompts
    assert again.params.image_files == asked.image_files
    names = [name for name in GenerateParams.model_fields if name != "controls"]
    assert [getattr(again.params, name) for name in names] == [getattr(plan.params, name) for name in names]
    assert [one.model_dump() for one in again.params.controls] == [one.model_dump() for one in plan.params.controls]


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("upscale", parse(UpscaleParams, {"image": _IMAGE, "scale": 3, "output_format": "jpeg"})),
        ("annotate", parse(AnnotateParams, {"image": _IMAGE, "kind": "canny", "low_threshold": 50})),
    ],
)
async def test_params_of_single_images_are_read_as_they_were_stored(
    blobs: BlobStore, operation: Operation, params: UpscaleParams | AnnotateParams
) -> None:
    assert await loaded(operation, json.loads(json.dumps(await stored(params, blobs))), blobs) == params


async def test_an_image_that_is_gone_is_said_so(blobs: BlobStore, tmp_path: Path) -> None:
    fields = await stored(parse(UpscaleParams, {"image": _IMAGE}), blobs)
    for file in (tmp_path / "blobs").iterdir():
        file.unlink()
    with pytest.raises(NotFound, match="not stored any more"):
        await loaded("upscale", fields, blobs)
