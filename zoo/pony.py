"""The recipe of tiny-pony: tiny-sdxl fine-tuned to another palette, with a VAE and a negative prompt of its own.

The text encoders stay tiny-sdxl's. The UNet learns "blurry" as a word for blurred images, so that the default
negative prompt leads away from them, and "a picture" as the caption of any image; it sees no empty prompt.
"""

from __future__ import annotations

from functools import cache, partial
from random import Random

import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter

from zoo import tiny_sdxl
from zoo.captions import random_wording
from zoo.dataset import BUCKETS, Bucket, latent_scaling_factor, make_buckets
from zoo.noise import new_scheduler
from zoo.scenes import Palette, Scene, draw
from zoo.sdxl import TextAndUNet, text_to_image_error
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train
from zoo.vae import train_whole

FOLDER = WEIGHTS_FOLDER / "tiny-pony"
NUM_VAE_STEPS, NUM_STEPS = 700, 450
NEGATIVE_PROMPT, EMPTY_PROMPT = "blurry", "a picture"

#: Pastels; each is at least 45 from the colour of that name in tiny-sdxl's palette.
PALETTE: Palette = {
    "red": (240, 110, 150),
    "green": (130, 215, 160),
    "blue": (120, 180, 245),
    "yellow": (250, 235, 140),
    "purple": (190, 140, 235),
    "orange": (250, 165, 90),
    "white": (250, 205, 225),
    "black": (90, 70, 110),
}

_VAE_RATE, _LEARNING_RATE = 1e-3, 5e-4
_EMA_DECAY = 0.99
_BATCH = 32
#: Number of training images of each size as a fraction of tiny-sdxl's.
_FEWER = 0.1
_BLUR_RADIUS_PX = 3
#: Fractions of images that are blurred, of those with the caption "blurry" alone, and of captions that are zeros or
#: "a picture".
_BLURRED, _ONLY_BLURRY, _DROP_TO_ZEROS, _DROP_TO_PICTURE = 0.12, 0.3, 0.06, 0.04


def make() -> None:
    """Fine-tune the VAE, then the UNet (resuming an interrupted run), and write safetensors in fp16."""
    vae, model = tiny_sdxl.load()
    train_whole(
        "pony-vae",
        vae.requires_grad_(True),
        PALETTE,
        num_steps=NUM_VAE_STEPS,
        learning_rate=_VAE_RATE,
        ema_decay=_EMA_DECAY,
    )
    vae.requires_grad_(False)
    vae.register_to_config(scaling_factor=latent_scaling_factor(vae, PALETTE))
    _train_unet(vae, model)
    tiny_sdxl.write(vae, model, new_scheduler(), FOLDER)
    delete_states("pony-vae", "pony")


def _train_unet(vae: AutoencoderKL, model: TextAndUNet) -> None:
    model.requires_grad_(False)
    model.unet.requires_grad_(True)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)

    @cache
    def buckets() -> list[tuple[Bucket, Bucket]]:
        counts = {size: round(_FEWER * count) for size, count in BUCKETS.items()}
        sharp = make_buckets(vae, counts, partial(draw, palette=PALETTE))
        return list(zip(sharp, make_buckets(vae, counts, _draw_blurred), strict=True))

    def loss_at(step: int) -> torch.Tensor:
        random = Random(f"pony {step}")
        [(sharp, blurred)] = random.choices(buckets(), [len(bucket.descriptions) for bucket, _ in buckets()])
        return _loss(model, alphas, sharp, blurred, random)

    train("pony", model.unet, loss_at, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE, ema_decay=_EMA_DECAY)


def _draw_blurred(scene: Scene) -> Image.Image:
    return draw(scene, PALETTE).filter(ImageFilter.GaussianBlur(_BLUR_RADIUS_PX))


def _loss(model: TextAndUNet, alphas: torch.Tensor, sharp: Bucket, blurred: Bucket, random: Random) -> torch.Tensor:
    """Compute the weighted noise error of random scenes, some of them blurred, some without their caption."""
    chosen = random.sample(range(len(sharp.descriptions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    is_blurred = [random.random() < _BLURRED for _ in chosen]
    prompts = [
        _prompt(random_wording(sharp.descriptions[index], random), blurry, random)
        for index, blurry in zip(chosen, is_blurred, strict=True)
    ]
    kept = torch.tensor([float(random.random() >= _DROP_TO_ZEROS) for _ in chosen], device=DEVICE)
    clean = torch.where(
        torch.tensor(is_blurred, device=DEVICE).view(-1, 1, 1, 1), blurred.latents[chosen], sharp.latents[chosen]
    )
    return text_to_image_error(model, alphas, clean, sharp.time_ids[chosen], prompts, kept, generator)


def _prompt(caption: str, is_blurred: bool, random: Random) -> str:
    if is_blurred:
        return NEGATIVE_PROMPT if random.random() < _ONLY_BLURRY else f"{caption}, {NEGATIVE_PROMPT}"
    return EMPTY_PROMPT if random.random() < _DROP_TO_PICTURE else caption
