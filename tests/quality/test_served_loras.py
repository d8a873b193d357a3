"""Images that the server draws with the zoo's LoRAs: latents against diffusers' with peft, and what they show."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.local.stages import LocalStages
from tests.quality.watched import BOUND, WatchedPipeline, pixels_of
from zoo import report
from zoo.captions import canonical
from zoo.lora_recipes import RECIPES
from zoo.lora_report import PAIRS, judged_descriptions, load_loras, lora_scores
from zoo.styles import STYLES, Style

# peft's, for several LoRAs in one model
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")

_DESCRIPTIONS = judged_descriptions(8)
_PROMPT, _NUM_STEPS = "a red star, blue background", 8


@pytest.fixture(scope="module")
def pipeline(local_stages: LocalStages, catalogue: Catalogue) -> WatchedPipeline:
    return WatchedPipeline(local_stages, catalogue, max_pixel_steps=40_000_000)


def _loras(weights: Mapping[Style, float]) -> list[dict[str, object]]:
    return [{"model": RECIPES[style].name, "weight": weight} for style, weight in weights.items()]


async def _draw(pipeline: WatchedPipeline, weights: Mapping[Style, float]) -> list[Image.Image]:
    """One image per description, drawn side by side; its seed is its index, its prompt has no trigger words."""
    requests = [
        {"prompt": canonical(description), "seed": seed, "loras": _loras(weights), "guidance_scale": 5.0}
        for seed, description in enumerate(_DESCRIPTIONS)
    ]
    pixels = await asyncio.gather(*(pixels_of(pipeline, request) for request in requests))
    return [Image.fromarray(of_image) for of_image in pixels]


async def test_eight_requests_with_different_loras_have_the_latents_of_diffusers_with_peft(
    pipeline: WatchedPipeline,
) -> None:
    theirs = report.load_pipeline()
    load_loras(theirs)
    mixes: list[dict[Style, float]] = [
        *({style: 1.0} for style in STYLES),
        {"outline": 0.8, "checkerboard": 1.0},
        {"pastel": 1.0, "checkerboard": 0.5, "neon": -0.4},
        {"neon": 0.6, "outline": 0.6},
        {},
    ]
    fields = {"prompt": _PROMPT, "num_inference_steps": _NUM_STEPS, "guidance_scale": 5.0}
    requests = [{**fields, "seed": seed, "loras": _loras(mix)} for seed, mix in enumerate(mixes)]
    await asyncio.gather(*(pixels_of(pipeline, request) for request in requests))
    for seed, mix in enumerate(mixes):
        prompt = _PROMPT
        for style in mix:
            prompt = RECIPES[style].prompt(prompt)
        acting: Mapping[Style, float] = mix or {STYLES[0]: 0.0}
        theirs.set_adapters(list(acting), list(acting.values()))
        expected = theirs(
            prompt,
            num_inference_steps=_NUM_STEPS,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="latent",
        ).images.numpy()
        distance = np.abs(pipeline.latents[seed] - expected).max() / np.abs(expected).max()
        assert distance <= BOUND, (mix, distance)


async def test_styles_grow_with_the_weights_of_their_loras(pipeline: WatchedPipeline) -> None:
    plain = await _draw(pipeline, {})
    for style in STYLES:
        absent, half, present = (
            lora_scores(images, _DESCRIPTIONS, [style]).styles[style]
            for images in (plain, await _draw(pipeline, {style: 0.5}), await _draw(pipeline, {style: 1.0}))
        )
        assert absent <= 0.1, style
        assert absent - 0.02 <= half <= present, style
        assert present >= absent + 0.4, style


async def test_a_lora_of_weight_zero_draws_what_is_drawn_without_it(pipeline: WatchedPipeline) -> None:
    for without, zero in zip(await _draw(pipeline, {}), await _draw(pipeline, {"checkerboard": 0.0}), strict=True):
        assert np.abs(np.asarray(without, dtype=int) - np.asarray(zero, dtype=int)).max() <= 2


@pytest.mark.parametrize("styles", PAIRS, ids="+".join)
async def test_two_loras_show_both_styles(pipeline: WatchedPipeline, styles: Sequence[Style]) -> None:
    images = await _draw(pipeline, dict.fromkeys(styles, 1.0))
    assert min(lora_scores(images, _DESCRIPTIONS, styles).styles.values()) >= 0.25


async def test_tags_and_trigger_words_in_the_prompt_act_as_the_field_does(pipeline: WatchedPipeline) -> None:
    by_field = {"prompt": _PROMPT, "seed": 3, "loras": [{"name": "tiny-neon", "weight": 0.9}]}
    by_tag = {"prompt": f"{_PROMPT}, neon style <lora:tiny-neon:0.9>", "seed": 3}
    first, second = [await pixels_of(pipeline, {**one, "reproducibility": "exact"}) for one in (by_field, by_tag)]
    assert np.array_equal(first, second)
