"""Pictures as latents with their descriptions and time ids, in buckets of one size each.

Some pictures are crops of larger scenes and some are enlarged from small ones: they give SDXL's
conditioning on size and crop (Podell et al. 2023, §2.2) something to mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from diffusers import AutoencoderKL
from PIL import Image
from tqdm import tqdm

from zoo.scenes import Description, arrange, draw, random_description
from zoo.training import DEVICE
from zoo.vae import to_tensor

#: (width, height) in pixels and how many pictures of it.
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

_CROPPED, _ENLARGED = 0.12, 0.08
_ENCODE_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    #: [pictures, 4, h, w], scaled
    latents: torch.Tensor
    #: [pictures, 6]
    time_ids: torch.Tensor
    descriptions: list[Description]


@torch.no_grad()
def make_buckets(vae: AutoencoderKL) -> list[Bucket]:
    """Draw and encode every bucket; held-out descriptions never enter."""
    bar = tqdm(total=sum(BUCKETS.values()), desc="encode pictures", mininterval=10)
    buckets = []
    for (width, height), count in BUCKETS.items():
        random = Random(f"bucket {width} {height}")
        latents, time_ids, descriptions = [], [], []
        for start in range(0, count, _ENCODE_BATCH):
            pictures = []
            for _ in range(min(_ENCODE_BATCH, count - start)):
                description = random_training_description(random)
                picture, ids = _draw_with_time_ids(description, random, width, height)
                descriptions.append(description)
                pictures.append(to_tensor(picture))
                time_ids.append(ids)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                posterior = vae.encode(torch.cat(pictures).to(DEVICE)).latent_dist
            latents.append(posterior.mean.float() * vae.config.scaling_factor)
            bar.update(len(pictures))
        buckets.append(
            Bucket(
                latents=torch.cat(latents),
                time_ids=torch.tensor(time_ids, dtype=torch.float32, device=DEVICE),
                descriptions=descriptions,
            )
        )
    return buckets


@torch.no_grad()
def latent_scaling_factor(vae: AutoencoderKL) -> float:
    """The factor that gives the latents of 1000 pictures unit variance."""
    random = Random("scaling factor")
    latents = []
    for _ in range(40):
        scenes = [arrange(random_training_description(random), random, width=128, height=128) for _ in range(25)]
        pictures = torch.cat([to_tensor(draw(scene)) for scene in scenes]).to(DEVICE)
        latents.append(vae.encode(pictures).latent_dist.mean)
    return round(1 / torch.cat(latents).std().item(), 4)


def random_training_description(random: Random) -> Description:
    while True:
        description = random_description(random, num_things=1 if random.random() < 0.4 else 2)
        if not description.is_held_out:
            return description


def _draw_with_time_ids(
    description: Description, random: Random, width: int, height: int
) -> tuple[Image.Image, tuple[int, ...]]:
    """A picture and (orig_h, orig_w, crop_top, crop_left, target_h, target_w)."""
    kind = random.random()
    if kind < _CROPPED:
        full_width, full_height = width + random.randrange(8, 49), height + random.randrange(8, 49)
        left, top = random.randrange(full_width - width), random.randrange(full_height - height)
        picture = draw(arrange(description, random, width=full_width, height=full_height))
        picture = picture.crop((left, top, left + width, top + height))
        return picture, (full_height, full_width, top, left, height, width)
    if kind < _CROPPED + _ENLARGED:
        small_width, small_height = width // 2, height // 2
        small = draw(arrange(description, random, width=small_width, height=small_height))
        picture = small.resize((width, height), Image.Resampling.BICUBIC)
        return picture, (small_height, small_width, 0, 0, height, width)
    picture = draw(arrange(description, random, width=width, height=height))
    return picture, (height, width, 0, 0, height, width)
