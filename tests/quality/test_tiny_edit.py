"""tiny-edit, through OpenAI's client: edits are what the instructions ask for, and everything else stays as it is."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.pictures import encoded
from zoo.edit_report import Judged, held_out_edits
from zoo.edits import Edit
from zoo.judge import judge
from zoo.scenes import draw

_NUM_EDITS = 16


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue().only(["tiny-edit"])


@pytest.fixture(scope="module")
def stages(catalogue: Catalogue) -> Iterator[LocalStages]:
    stages = LocalStages(catalogue, settings=replace(DEFAULT_SETTINGS, num_threads=1))
    yield stages
    stages.close()


@pytest.fixture
async def client(catalogue: Catalogue, stages: LocalStages, tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=40_000_000))
    blobs = BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1))
    transport = httpx2.ASGITransport(build_app(pipeline, blobs, max_body_bytes=1_000_000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        yield openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


async def _edited(client: openai.AsyncOpenAI, edit: Edit, seed: int, **fields: object) -> Judged:
    answer = await client.images.edit(
        model="tiny-edit",
        image=("image.png", encoded(draw(edit.before)), "image/png"),
        prompt=edit.instruction,
        input_fidelity="high",
        extra_body={"seed": seed, **fields},
    )
    assert answer.data is not None
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    return Judged(edit, image, judge(image, edit.after.description))


async def test_edits_are_what_the_instructions_ask_for(client: openai.AsyncOpenAI) -> None:
    """The bounds allow for the variance of so few edits; zoo/README.md has the scores of more."""
    edits = enumerate(held_out_edits(_NUM_EDITS))
    judged = await asyncio.gather(*(_edited(client, edit, seed) for seed, edit in edits))
    assert sum(one.verdict.background for one in judged) >= 0.9 * _NUM_EDITS
    assert sum(one.verdict.is_right for one in judged) >= 0.6 * _NUM_EDITS
    assert sum(one.kept for one in judged) / _NUM_EDITS < 10


async def test_more_image_guidance_keeps_more_of_the_image(client: openai.AsyncOpenAI) -> None:
    edits = held_out_edits(4)
    kept = [
        sum([(await _edited(client, edit, seed, image_guidance_scale=scale)).kept for seed, edit in enumerate(edits)])
        for scale in (1.0, 2.5)
    ]
    assert kept[1] < kept[0]
