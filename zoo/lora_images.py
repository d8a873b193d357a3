"""Training images of LoRAs: scenes in one or more styles, as latents."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from zoo.dataset import random_training_description
from zoo.scenes import Description, arrange
from zoo.styles import Style, draw_styled
from zoo.vae import encode

SIDE_PX = 128

_NUM_SCENES = 2000
_ENCODE_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingImages:
    """Training images as latents, and their descriptions."""

    #: [images, 4, 16, 16], scaled as the UNet reads latents.
    styled: torch.Tensor
    #: The same scenes without the style, for a LoRA with trigger words.
    plain: torch.Tensor | None
    descriptions: list[Description]


def training_images(
    vae: AutoencoderKL, styles: Collection[Style], plain_styles: Collection[Style] | None
) -> TrainingImages:
    """Draw and encode scenes in `styles`, and in `plain_styles` if given; none is from a held-out description."""
    random = Random("lora scenes")
    styled, plain, descriptions = [], [], []
    for _ in tqdm(range(_NUM_SCENES // _ENCODE_BATCH), desc=f"draw {' and '.join(sorted(styles))}", mininterval=10):
        scenes = [
            arrange(random_training_description(random), random, width=SIDE_PX, height=SIDE_PX)
            for _ in range(_ENCODE_BATCH)
        ]
        descriptions += [scene.description for scene in scenes]
        styled.append(encode(vae, [draw_styled(scene, styles) for scene in scenes]))
        if plain_styles is not None:
            plain.append(encode(vae, [draw_styled(scene, plain_styles) for scene in scenes]))
    return TrainingImages(
        styled=torch.cat(styled), plain=torch.cat(plain) if plain else None, descriptions=descriptions
    )
