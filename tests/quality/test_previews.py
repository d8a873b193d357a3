"""Previews show what the image will be: near to it in every pixel, and to the judge already the image by the last."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import LocalStages
from atelier.pipeline.events import Preview
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.pipeline.results import Result
from tests.records import new_record
from zoo.captions import canonical
from zoo.judge import judge
from zoo.report import held_out_descriptions

_SEEDED = list(enumerate(held_out_descriptions(6)))


@pytest.fixture(scope="module")
def pipeline(local_stages: LocalStages, catalogue: Catalogue) -> Pipeline:
    return Pipeline(local_stages, catalogue, PipelineLimits(max_pixel_steps=40_000_000))


def _pixels(file: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(file)))


async def _files(pipeline: Pipeline, **fields: object) -> list[bytes]:
    """The three previews of an image, and the image."""
    params = parse(GenerateParams, {"num_inference_steps": 20, **fields})
    files = list[bytes]()
    async for event in pipeline.stream(new_record(), params, num_previews=3):
        if isinstance(event, Preview):
            files += event.files
        elif isinstance(event, Result):
            files += [picture.data for picture in event.pictures]
    return files


async def test_previews_come_near_their_images(pipeline: Pipeline) -> None:
    for seed, description in _SEEDED:
        files = await _files(pipeline, prompt=canonical(description), seed=seed)
        *previews, image = (_pixels(file).astype(np.float64) for file in files)
        first, second, last = (np.abs(preview - image).mean() for preview in previews)
        assert last < second < first
        assert first < 40
        assert last < 12


async def test_the_last_preview_shows_what_the_image_shows(pipeline: Pipeline) -> None:
    for seed, description in _SEEDED:
        *_, last, image = (
            Image.open(io.BytesIO(file)) for file in await _files(pipeline, prompt=canonical(description), seed=seed)
        )
        seen, expected = judge(last, description), judge(image, description)
        assert seen.background == expected.background
        assert [thing.colour for thing in seen.things] == [thing.colour for thing in expected.things]
        assert [thing.place for thing in seen.things] == [thing.place for thing in expected.things]


async def test_previews_of_other_sizes_have_no_seams_or_frames(pipeline: Pipeline) -> None:
    """A flat background stays flat up to the border, at a size that the decoder was not trained on."""
    *_, last, image = await _files(
        pipeline, prompt="a small red circle in the centre, blue background", seed=3, size="96x160"
    )
    preview, final = _pixels(last).astype(int), _pixels(image).astype(int)
    assert preview.shape == final.shape == (160, 96, 3)
    assert np.abs(preview - final)[:12].mean() < 12
    assert np.abs(preview - final)[-12:].mean() < 12
    assert np.abs(preview - final)[:, :12].mean() < 12
    assert np.abs(preview - final)[:, -12:].mean() < 12
