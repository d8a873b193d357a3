"""Image-to-image and inpainting compared with diffusers' pipelines; pixels outside the mask are kept."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline
from PIL import Image

from atelier.catalogue.catalogue import Catalogue
from atelier.core.sampling import SamplerName
from atelier.local.stages import LocalStages
from tests.quality.watched import WatchedPipeline, is_near, latents_of_diffusers, pixels_of, png
from zoo import report
from zoo.scenes import Description, Thing, arrange, draw

_PROMPT, _SEED = "a blue square on the right", 5
_ORIGINAL = draw(
    arrange(
        Description(things=(Thing(colour="red", shape="circle", place="left"),), background="white"),
        Random(3),
        width=128,
        height=96,
    )
)


def _mask() -> Image.Image:
    mask = np.zeros((96, 128), dtype=np.uint8)
    mask[16:80, 64:120] = 255
    return Image.fromarray(mask)


@pytest.fixture(scope="module")
def theirs() -> StableDiffusionXLPipeline:
    return report.load_pipeline()


@pytest.fixture(scope="module")
def pipeline(local_stages: LocalStages, catalogue: Catalogue) -> WatchedPipeline:
    return WatchedPipeline(local_stages, catalogue, max_pixel_steps=40_000_000)


async def _ours(pipeline: WatchedPipeline, **fields: object) -> npt.NDArray[np.uint8]:
    return await pixels_of(
        pipeline, {"prompt": _PROMPT, "seed": _SEED, "num_inference_steps": 10, "guidance_scale": 4.0, **fields}
    )


def _theirs(kind: type, theirs: StableDiffusionXLPipeline, sampler: SamplerName, **settings: object) -> torch.Tensor:
    return latents_of_diffusers(
        kind,
        theirs.components,
        sampler,
        seed=_SEED,
        prompt=_PROMPT,
        num_inference_steps=10,
        guidance_scale=4.0,
        **settings,
    )


@pytest.mark.parametrize(
    ("sampler", "strength"),
    [
        ("euler", 0.8),
        ("euler", 1.0),
        ("dpmpp_2m", 0.5),
        ("unipc", 0.8),
        ("heun", 0.7),
        ("ddim", 0.75),
        ("euler_a", 0.6),
    ],
)
async def test_image_to_image_equals_diffusers(
    pipeline: WatchedPipeline, theirs: StableDiffusionXLPipeline, sampler: SamplerName, strength: float
) -> None:
    await _ours(pipeline, sampler=sampler, strength=strength, init_image=png(_ORIGINAL))
    expected = _theirs(StableDiffusionXLImg2ImgPipeline, theirs, sampler, image=_ORIGINAL, strength=strength)
    assert is_near(pipeline.latents[_SEED], expected)


@pytest.mark.parametrize(("sampler", "strength"), [("euler", 1.0), ("euler", 0.8), ("unipc", 0.7), ("euler_a", 0.9)])
async def test_inpainting_equals_diffusers_and_keeps_pixels_outside_the_mask(
    pipeline: WatchedPipeline, theirs: StableDiffusionXLPipeline, sampler: SamplerName, strength: float
) -> None:
    ours = await _ours(
        pipeline, sampler=sampler, strength=strength, init_image=png(_ORIGINAL), mask_image=png(_mask())
    )
    expected = _theirs(
        StableDiffusionXLInpaintPipeline,
        theirs,
        sampler,
        image=_ORIGINAL,
        mask_image=_mask(),
        width=128,
        height=96,
        strength=strength,
    )
    outside = np.asarray(_mask()) == 0
    assert np.array_equal(ours[outside], np.asarray(_ORIGINAL)[outside])
    assert is_near(pipeline.latents[_SEED], expected)
