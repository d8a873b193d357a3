"""Latents with ControlNets compared with diffusers' pipelines, and scores of images against their control maps."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import (
    ControlNetModel,
    MultiControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.control import ControlKind
from atelier.local.stages import LocalStages
from tests.quality.watched import WatchedPipeline, is_near, latents_of_diffusers, pixels_of, png
from zoo import report
from zoo.control_report import control_scores, draw_controlled, unseen_scenes
from zoo.scenes import Description, Thing, arrange
from zoo.tiny_controlnets import MAPS
from zoo.training import WEIGHTS_FOLDER

_PROMPT, _SEED, _NUM_STEPS = "a blue shape, white background", 5, 8
_SCENE = arrange(
    Description(things=(Thing(colour="blue", shape="star", size="large", place="left"),), background="white"),
    Random(3),
    width=128,
    height=96,
)
_MAPS = {kind: Image.fromarray(map_of(_SCENE)) for kind, map_of in MAPS.items()}
_FIELDS: dict[str, object] = {"prompt": _PROMPT, "num_inference_steps": _NUM_STEPS, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionXLPipeline:
    return report.load_pipeline()


@pytest.fixture(scope="module")
def controlnets() -> dict[ControlKind, ControlNetModel]:
    return {
        kind: ControlNetModel.from_pretrained(WEIGHTS_FOLDER / f"tiny-{kind}", dtype=torch.float32) for kind in MAPS
    }


@pytest.fixture(scope="module")
def pipeline(local_stages: LocalStages, catalogue: Catalogue) -> WatchedPipeline:
    return WatchedPipeline(local_stages, catalogue, max_pixel_steps=40_000_000)


async def _latents_alone_and_batched(
    pipeline: WatchedPipeline, fields: dict[str, object]
) -> list[npt.NDArray[np.float32]]:
    """Final latents of the request alone, and batched with a plain request and one that has another control."""
    request = {**_FIELDS, "seed": _SEED, "size": "128x96", **fields}
    await pixels_of(pipeline, request)
    alone = pipeline.latents[_SEED]
    others = [
        {"prompt": "a red ring", "seed": 1, "size": "128x96", "num_inference_steps": 11},
        {"prompt": "a red ring", "seed": 2, "size": "128x96", "controls": [_control("depth", scale=0.7)]},
    ]
    await asyncio.gather(*(pixels_of(pipeline, one) for one in (others[0], request, others[1])))
    return [alone, pipeline.latents[_SEED]]


def _control(kind: ControlKind, **fields: object) -> dict[str, object]:
    return {"kind": kind, "image": png(_MAPS[kind]), **fields}


@pytest.mark.parametrize(
    ("controls", "settings"),
    [
        pytest.param([_control("canny")], {}, id="one"),
        pytest.param(
            [_control("canny", scale=0.6, start=0.2, end=0.7)],
            {"controlnet_conditioning_scale": 0.6, "control_guidance_start": 0.2, "control_guidance_end": 0.7},
            id="window",
        ),
        pytest.param([_control("canny", guess_mode=True)], {"guess_mode": True}, id="guess mode"),
        pytest.param(
            [_control("canny", scale=0.8, end=0.5), _control("depth", scale=0.5)],
            {
                "controlnet_conditioning_scale": [0.8, 0.5],
                "control_guidance_start": [0.0, 0.0],
                "control_guidance_end": [0.5, 1.0],
            },
            id="two",
        ),
    ],
)
async def test_latents_with_controls_equal_diffusers(
    pipeline: WatchedPipeline,
    theirs: StableDiffusionXLPipeline,
    controlnets: dict[ControlKind, ControlNetModel],
    controls: list[dict[str, Any]],
    settings: dict[str, object],
) -> None:
    kinds: list[ControlKind] = [control["kind"] for control in controls]
    several = len(kinds) > 1
    expected = latents_of_diffusers(
        StableDiffusionXLControlNetPipeline,
        {
            **theirs.components,
            "controlnet": MultiControlNetModel([controlnets[kind] for kind in kinds])
            if several
            else controlnets[kinds[0]],
        },
        "euler",
        seed=_SEED,
        image=[_MAPS[kind] for kind in kinds] if several else _MAPS[kinds[0]],
        **_FIELDS,
        **settings,
    )
    for latents in await _latents_alone_and_batched(pipeline, {"controls": controls}):
        assert is_near(latents, expected)


async def test_image_to_image_with_a_control_equals_diffusers(
    pipeline: WatchedPipeline, theirs: StableDiffusionXLPipeline, controlnets: dict[ControlKind, ControlNetModel]
) -> None:
    original = Image.new("RGB", (128, 96), "yellow")
    expected = latents_of_diffusers(
        StableDiffusionXLControlNetImg2ImgPipeline,
        {**theirs.components, "controlnet": controlnets["canny"]},
        "euler",
        seed=_SEED,
        image=original,
        control_image=_MAPS["canny"],
        strength=0.9,
        controlnet_conditioning_scale=1.0,
        **_FIELDS,
    )
    fields = {"controls": [_control("canny")], "init_image": png(original), "strength": 0.9}
    for latents in await _latents_alone_and_batched(pipeline, fields):
        assert is_near(latents, expected)


async def test_inpainting_with_a_control_equals_diffusers(
    pipeline: WatchedPipeline, theirs: StableDiffusionXLPipeline, controlnets: dict[ControlKind, ControlNetModel]
) -> None:
    original, mask = Image.new("RGB", (128, 96), "yellow"), Image.new("L", (128, 96))
    mask.paste(255, (0, 0, 72, 96))
    expected = latents_of_diffusers(
        StableDiffusionXLControlNetInpaintPipeline,
        {**theirs.components, "controlnet": controlnets["canny"]},
        "euler",
        seed=_SEED,
        image=original,
        mask_image=mask,
        control_image=_MAPS["canny"],
        width=128,
        height=96,
        strength=0.9,
        controlnet_conditioning_scale=1.0,
        **_FIELDS,
    )
    fields = {"controls": [_control("canny")], "init_image": png(original), "mask_image": png(mask), "strength": 0.9}
    for latents in await _latents_alone_and_batched(pipeline, fields):
        assert is_near(latents, expected)


@pytest.mark.parametrize("kind", ["canny", "depth"])
def test_images_follow_their_control_maps(theirs: StableDiffusionXLPipeline, kind: ControlKind) -> None:
    """A quick version of the scores in zoo/README.md, over 8 scenes instead of 64."""
    scores = control_scores(theirs.vae, kind, draw_controlled(theirs, kind, unseen_scenes(8)))
    assert scores.with_control >= 0.85 * scores.ceiling
    assert scores.with_control >= scores.without + 0.3
