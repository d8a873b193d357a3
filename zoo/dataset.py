"""Training images as latents, with their descriptions and time ids, in buckets of one size each.

Some images are crops of larger scenes, and some are enlarged from small ones, so that SDXL's conditioning on size and
crop (Podell et al. 2023, §2.2) has a meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import torch
from diffusers import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from zoo.scenes import RGB, Description, Palette, Scene, arrange, draw, random_description
from zoo.training import DEVICE
from zoo.vae import to_tensor

#: Number of images by (width, height) in pixels.
BUCKETS: dict[tuple[int, int], int] = {
    (128, 128): 18_000,
    (64, 64): 1000,
    (96, 96): 1000,
    (160, 160): 1000,
    (96, 128): 1000,
    (128, 96): 1000,
    (128, 160): 1000,
    (160, 128): 1000,
    (64, 128): 1000,
    (128, 64): 1000,
    (96, 160): 1000,
    (160, 96): 1000,
    (120, 136): 1000,
    (144, 104): 1000,
}

#: Fractions of images that are crops of larger scenes, and that are enlarged from smaller ones.
_CROPPED, _ENLARGED = 0.12, 0.08
_ENCODE_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Training images of one size."""

    #: [images, 4, height / 8, width / 8], scaled as the UNet reads latents
    latents: torch.Tensor
    #: SDXL's size and crop conditioning, [images, 6], in pixels.
    time_ids: torch.Tensor
    descriptions: list[Description]


@torch.no_grad()
def make_buckets(
    vae: AutoencoderKL,
    sizes: Mapping[tuple[int, int], int] = BUCKETS,
    render: Callable[[Scene], Image.Image] = draw,
    *,
    has_crops: bool = True,
) -> list[Bucket]:
    """Draw and encode the images of every bucket, none of them from a held-out description.

    `sizes` are numbers of images by (width, height) in pixels. Equal `sizes` give equal scenes, however drawn.
    Without `has_crops`, all images are whole scenes, for a model that is not told of crops.
    """
    bar = tqdm(total=sum(sizes.values()), desc="encode images", mininterval=10)
    buckets = []
    for (width, height), count in sizes.items():
        random = Random(f"bucket {width} {height}")
        latents, time_ids, descriptions = [], [], []
        for start in range(0, count, _ENCODE_BATCH):
            images = []
            for _ in range(min(_ENCODE_BATCH, count - start)):
                description = random_training_description(random)
                image, ids = _draw_with_time_ids(description, random, width, height, render, has_crops=has_crops)
                descriptions.append(description)
                images.append(to_tensor(image))
                time_ids.append(ids)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                posterior = vae.encode(torch.cat(images).to(DEVICE)).latent_dist
            latents.append(posterior.mean.float() * vae.config.scaling_factor)
            bar.update(len(images))
        buckets.append(
            Bucket(
                latents=torch.cat(latents),
                time_ids=torch.tensor(time_ids, dtype=torch.float32, device=DEVICE),
                descriptions=descriptions,
            )
        )
    return buckets


@torch.no_grad()
def latent_scaling_factor(vae: AutoencoderKL, palette: Palette = RGB) -> float:
    """Compute the factor that scales the latents of 1000 images to unit variance."""
    random = Random("scaling factor")
    latents = []
    for _ in range(40):
        scenes = [arrange(random_training_description(random), random, width=128, height=128) for _ in range(25)]
        images = torch.cat([to_tensor(draw(scene, palette)) for scene in scenes]).to(DEVICE)
        latents.append(vae.encode(images).latent_dist.mean)
    return round(1 / torch.cat(latents).std().item(), 4)


def random_training_description(random: Random) -> Description:
    """Return a random description of one or two objects that is not held out."""
    while True:
        description = random_description(random, num_things=1 if random.random() < 0.4 else 2)
        if not description.is_held_out:
            return description


def _draw_with_time_ids(
    description: Description,
    random: Random,
    width: int,
    height: int,
    render: Callable[[Scene], Image.Image],
    *,
    has_crops: bool,
) -> tuple[Image.Image, tuple[int, ...]]:
    """Return an image and its time ids: (orig_h, orig_w, crop_top, crop_left, target_h, target_w) in pixels."""
    kind = random.random() if has_crops else 1.0
    if kind < _CROPPED:
        full_width, full_height = width + random.randrange(8, 49), height + random.randrange(8, 49)
        left, top = random.randrange(full_width - width), random.randrange(full_height - height)
        image = render(arrange(description, random, width=full_width, height=full_height))
        image = image.crop((left, top, left + width, top + height))
        return image, (full_height, full_width, top, left, height, width)
    if kind < _CROPPED + _ENLARGED:
        small_width, small_height = width // 2, height // 2
        small = render(arrange(description, random, width=small_width, height=small_height))
        image = small.resize((width, height), Image.Resampling.BICUBIC)
        return image, (small_height, small_width, 0, 0, height, width)
    image = render(arrange(description, random, width=width, height=height))
    return image, (height, width, 0, 0, height, width)
