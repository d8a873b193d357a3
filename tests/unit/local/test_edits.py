"""Edits by instructions, of both families, against diffusers' pipelines of InstructPix2Pix."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionXLInstructPix2PixPipeline

from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages
from atelier.models.loading import (
    load_scheduler,
    load_text_encoder,
    load_text_encoders,
    load_tokenizers,
    load_unet,
    load_vae,
)
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.pictures import encoded, noise, pixels_of
from tests.records import new_record
from tests.small_models import CPU

_IMAGE = noise(64, 72, seed=4)
_SETTINGS: list[dict[str, object]] = [
    {},
    {"guidance_scale": 3.0, "image_guidance_scale": 2.5, "negative_prompt": "red"},
    {"guidance_scale": 1.0},
]
_MODELS = ["small-sdxl-edit", "small-sd15-edit"]
_FIELDS: dict[str, object] = {"prompt": "a blue background", "seed": 3, "init_image": encoded(_IMAGE)}


@pytest.fixture(scope="module")
def pipeline(edit_catalogue: Catalogue) -> Iterator[Pipeline]:
    stages = LocalStages(edit_catalogue, settings=replace(DEFAULT_SETTINGS, exact_width=8, num_threads=1))
    yield Pipeline(stages, edit_catalogue, PipelineLimits(max_pixel_steps=1_000_000))
    stages.close()


async def _drawn(pipeline: Pipeline, **fields: object) -> bytes:
    result = await pipeline.generate(new_record(), parse(GenerateParams, {**_FIELDS, **fields}))
    return result.pictures[0].data


def _theirs(edit_catalogue: Catalogue, model: str, **settings: Any) -> Any:
    """Return the image of diffusers' pipeline for the model."""
    entry = edit_catalogue.model(model)
    parts = {"vae": load_vae(entry, CPU), "unet": load_unet(entry, CPU), "scheduler": load_scheduler(entry)}
    if entry.family == "sd15":
        [tokenizer] = load_tokenizers(entry)
        pipeline = StableDiffusionInstructPix2PixPipeline(
            **parts,
            tokenizer=tokenizer,
            text_encoder=load_text_encoder(entry, CPU),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    else:
        tokenizer, tokenizer_2 = load_tokenizers(entry)
        text_encoder, text_encoder_2 = load_text_encoders(entry, CPU)
        pipeline = StableDiffusionXLInstructPix2PixPipeline(
            **parts,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            add_watermarker=False,
        )
        settings |= {"width": 64, "height": 72}
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(3)
    return pipeline(prompt=_FIELDS["prompt"], image=_IMAGE, generator=generator, **settings).images[0]


def _difference(data: bytes, expected: Any) -> int:
    ours, theirs = (np.asarray(image, dtype=np.int32) for image in (pixels_of(data), expected))
    return int(np.abs(ours - theirs).max())


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        *((model, fields) for model in _MODELS for fields in _SETTINGS),
        # The pipeline of Stable Diffusion 1.5 has no such setting.
        ("small-sdxl-edit", {"guidance_rescale": 0.7}),
    ],
    ids=str,
)
async def test_images_are_those_of_diffusers(
    pipeline: Pipeline, edit_catalogue: Catalogue, model: str, fields: dict[str, Any]
) -> None:
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "image_guidance_scale": 1.5, **fields}
    assert _difference(await _drawn(pipeline, model=model, **fields), _theirs(edit_catalogue, model, **settings)) <= 1


@pytest.mark.parametrize("model", _MODELS)
async def test_edits_share_calls_and_exact_ones_do_not_depend_on_them(pipeline: Pipeline, model: str) -> None:
    for reproducibility in ("fast", "exact"):
        fields = {"model": model, "reproducibility": reproducibility}
        alone = await _drawn(pipeline, **fields)
        together, *_ = await asyncio.gather(
            _drawn(pipeline, **fields),
            _drawn(pipeline, **fields, seed=9, image_guidance_scale=4.0, n=2),
            _drawn(pipeline, **fields, seed=10, guidance_scale=1.0),
        )
        assert _difference(together, pixels_of(alone)) <= (1 if reproducibility == "fast" else 0)
