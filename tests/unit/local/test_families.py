"""Models of two families in one process, against diffusers' `StableDiffusionPipeline`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import GenerateParams, parse
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages
from atelier.models.loading import load_scheduler, load_text_encoder, load_tokenizers, load_unet, load_vae
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.pictures import encoded, noise, pixels_of
from tests.records import new_record
from tests.small_models import CPU

_FIELDS: dict[str, object] = {"model": "small-sd15", "prompt": "a red circle", "seed": 3, "size": "64x72"}


@pytest.fixture(scope="module")
def pipeline(two_families: Catalogue) -> Iterator[Pipeline]:
    stages = LocalStages(two_families, settings=replace(DEFAULT_SETTINGS, exact_width=4, num_threads=1))
    yield Pipeline(stages, two_families, PipelineLimits(max_pixel_steps=1_000_000))
    stages.close()


@pytest.fixture(scope="module")
def parts(two_families: Catalogue) -> dict[str, Any]:
    """The components of diffusers' pipelines for small-sd15."""
    entry = two_families.model("small-sd15")
    [tokenizer] = load_tokenizers(entry)
    text_encoder = load_text_encoder(entry, CPU)
    return {
        "vae": load_vae(entry, CPU),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": load_unet(entry, CPU),
        "scheduler": load_scheduler(entry),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


async def _drawn(pipeline: Pipeline, **fields: object) -> bytes:
    result = await pipeline.generate(new_record(), parse(GenerateParams, {**_FIELDS, **fields}))
    return result.pictures[0].data


def _psnr_db(data: bytes, expected: Image.Image) -> float:
    ours, theirs = (np.asarray(image, dtype=np.float64) for image in (pixels_of(data), expected))
    mse = float(np.square(ours - theirs).mean())
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


def _settings(negative_prompt: str | None) -> dict[str, Any]:
    return {
        "prompt": "a red circle",
        "negative_prompt": negative_prompt,
        "width": 64,
        "height": 72,
        "num_inference_steps": 4,
        "guidance_scale": 5.0,
        "generator": torch.Generator("cpu").manual_seed(3),
    }


@pytest.mark.parametrize("negative_prompt", [None, "blue"])
async def test_images_are_those_of_diffusers(
    pipeline: Pipeline, parts: dict[str, Any], negative_prompt: str | None
) -> None:
    theirs = StableDiffusionPipeline(**parts)
    theirs.set_progress_bar_config(disable=True)
    fields = {} if negative_prompt is None else {"negative_prompt": negative_prompt}
    assert _psnr_db(await _drawn(pipeline, **fields), theirs(**_settings(negative_prompt)).images[0]) >= 70


async def test_controlled_images_are_those_of_diffusers(
    pipeline: Pipeline, parts: dict[str, Any], two_families: Catalogue
) -> None:
    [entry] = two_families.controlnets_for("small-sd15")
    assert entry.files.folder is not None
    controlnet = ControlNetModel.from_pretrained(str(entry.files.folder))
    theirs = StableDiffusionControlNetPipeline(**parts, controlnet=controlnet)
    theirs.set_progress_bar_config(disable=True)
    image = noise(64, 72, seed=4)
    expected = theirs(image=image, controlnet_conditioning_scale=0.8, **_settings(None)).images[0]
    drawn = await _drawn(pipeline, controls=[{"kind": "canny", "image": encoded(image)}])
    assert _psnr_db(drawn, expected) >= 70
    assert _psnr_db(await _drawn(pipeline), expected) < 40


async def test_exact_images_do_not_depend_on_company(pipeline: Pipeline) -> None:
    alone = await _drawn(pipeline, reproducibility="exact")
    together, *_ = await asyncio.gather(
        _drawn(pipeline, reproducibility="exact"),
        _drawn(pipeline, reproducibility="exact", prompt="two green rings", seed=9),
        _drawn(pipeline, model="small-sdxl", seed=5),
    )
    assert together == alone
