"""tiny-sdxl-lightning and tiny-pony as the server draws them with their own defaults, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.local.stages import DEFAULT_SETTINGS, LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.quality.served import image_of, judged_images
from zoo import report
from zoo.pony import PALETTE
from zoo.scenes import RGB, Palette, arrange, draw, random_description
from zoo.vae import reconstruct

_LIGHTNING, _PONY = "tiny-sdxl-lightning", "tiny-pony"
_CAPTION = "a large red circle on the left, white background"


def _psnr_db(a: object, b: object) -> float:
    mse = float(np.square(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).mean())
    return float("inf") if mse == 0 else 10 * np.log10(255**2 / mse)


def _pipeline(catalogue: Catalogue, stages: LocalStages) -> Pipeline:
    return Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=40_000_000))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    catalogue = read_catalogue().only([_LIGHTNING, _PONY])
    stages = LocalStages(catalogue, settings=replace(DEFAULT_SETTINGS, exact_width=4, num_threads=1))
    yield _pipeline(catalogue, stages)
    stages.close()


async def test_four_steps_of_one_row_agree_with_held_out_captions(pipeline: Pipeline) -> None:
    """The bounds allow for the variance of 48 captions; zoo/README.md has the scores of 200."""
    judged = await judged_images(pipeline, report.held_out_descriptions(48), RGB, model=_LIGHTNING)
    scores = report.scores(judged)
    assert scores["background"] >= 0.95
    assert scores["one object: colour"] >= 0.92
    assert scores["one object: shape"] >= 0.85
    assert scores["one object: place"] >= 0.9


@pytest.mark.parametrize(("model", "scored"), [(_LIGHTNING, report.TINY_LIGHTNING), (_PONY, report.TINY_PONY)])
async def test_images_with_the_models_defaults_equal_those_of_diffusers(
    pipeline: Pipeline, model: str, scored: report.Scored
) -> None:
    ours = await image_of(pipeline, prompt=_CAPTION, seed=3, model=model)
    theirs = report.load_pipeline(scored)(
        _CAPTION,
        negative_prompt=scored.negative_prompt,
        num_inference_steps=scored.num_inference_steps,
        guidance_scale=scored.guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(3)],
    ).images[0]
    assert _psnr_db(ours, theirs) >= 60


async def test_pony_draws_held_out_captions_in_its_own_palette(pipeline: Pipeline) -> None:
    judged = await judged_images(pipeline, report.held_out_descriptions(20), PALETTE, model=_PONY)
    scores = report.scores(judged)
    assert scores["background"] >= 0.95
    assert scores["one object: colour"] >= 0.9
    assert scores["one object: shape"] >= 0.8


async def test_images_of_one_palette_fail_in_the_other(
    pipeline: Pipeline, catalogue: Catalogue, local_stages: LocalStages
) -> None:
    descriptions = report.held_out_descriptions(8)
    in_pastels = await judged_images(pipeline, descriptions, RGB, model=_PONY)
    plain = await judged_images(_pipeline(catalogue, local_stages), descriptions, PALETTE, model="tiny-sdxl")
    assert not any(one.verdict.background for one in (*in_pastels, *plain))


async def test_ponys_own_negative_prompt_changes_the_image(pipeline: Pipeline) -> None:
    fields = {"prompt": _CAPTION, "seed": 4, "model": _PONY, "num_inference_steps": 6}
    default = await image_of(pipeline, **fields)
    assert _psnr_db(default, await image_of(pipeline, **fields, negative_prompt="blurry")) == float("inf")
    assert _psnr_db(default, await image_of(pipeline, **fields, negative_prompt="")) < 45


def test_ponys_vae_renders_its_palette_and_no_other() -> None:
    vae = report.load_pipeline(report.TINY_PONY).vae
    random = Random(1)
    scenes = [arrange(random_description(random, num_things=2), random, width=128, height=96) for _ in range(20)]

    def mean_psnr_db(palette: Palette) -> float:
        images = [draw(scene, palette) for scene in scenes]
        return float(np.mean([_psnr_db(reconstruct(vae, image), image) for image in images]))

    pastel = mean_psnr_db(PALETTE)
    assert pastel >= 30
    assert mean_psnr_db(RGB) < pastel - 5
