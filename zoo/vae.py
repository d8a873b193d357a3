"""The recipe of the zoo's VAEs, AutoencoderKLs that reduce each side by 8, and their reconstruction error."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from zoo.scenes import RGB, Palette, Scene, arrange, draw, random_description
from zoo.training import DEVICE, EMA_DECAY, train

SIDES_PX = range(64, 161, 8)
NUM_STEPS, NUM_REFINING_STEPS = 7000, 4000

_LEARNING_RATE = 2e-3
_KL_WEIGHT = 1e-3
_CROP_PX = 64
_PIXELS_PER_STEP = 16 * _CROP_PX**2


def new_vae() -> AutoencoderKL:
    """Create an untrained VAE with four latent channels and 8 × 8 pixels per latent position."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
        force_upcast=False,
    )


def train_vae() -> AutoencoderKL:
    """Train the VAE from scratch, or resume an interrupted run."""
    torch.manual_seed(0)
    vae = new_vae().to(DEVICE)
    train_whole("vae", vae, RGB, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE)
    _refine_decoder(vae)
    return vae


def train_whole(
    name: str,
    vae: AutoencoderKL,
    palette: Palette,
    *,
    num_steps: int,
    learning_rate: float,
    ema_decay: float = EMA_DECAY,
) -> None:
    """Train encoder and decoder together on scenes in the palette."""

    def loss_at(step: int) -> torch.Tensor:
        images = _batch(Random(f"{name} {step}"), palette)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        latents = posterior.mean + posterior.std * noise.to(DEVICE)
        error: torch.Tensor = vae.decode(latents).sample.float() - images
        kl: torch.Tensor = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        return error.abs().mean() + 4 * error.square().mean() + _KL_WEIGHT * kl

    train(name, vae, loss_at, num_steps=num_steps, learning_rate=learning_rate, ema_decay=ema_decay)


def _refine_decoder(vae: AutoencoderKL) -> None:
    """Train the decoder alone, so that latents stay as they are; each image is weighted by its own error."""
    vae.requires_grad_(False)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

    def loss_at(step: int) -> torch.Tensor:
        images = _batch(Random(f"decoder {step}"), RGB)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        error: torch.Tensor = vae.decode(latents).sample.float() - images
        mse = error.square().mean(dim=(1, 2, 3))
        weight = mse.detach() / mse.detach().mean()
        return (weight * (mse + 0.25 * error.abs().mean(dim=(1, 2, 3)))).mean()

    train("vae-decoder", decoder, loss_at, num_steps=NUM_REFINING_STEPS, learning_rate=_LEARNING_RATE / 2)


def _batch(random: Random, palette: Palette) -> torch.Tensor:
    """Draw whole images of one random size, or square crops around objects in images of random sizes.

    Returns a tensor [images, 3, height, width], −1 … 1.
    """
    if random.random() < 0.5:
        width, height = random.choice(SIDES_PX), random.choice(SIDES_PX)
        count = max(1, round(_PIXELS_PER_STEP / (width * height)))
        images = [draw(_random_scene(random, width, height), palette) for _ in range(count)]
    else:
        images = [_crop(random, palette) for _ in range(_PIXELS_PER_STEP // _CROP_PX**2)]
    return torch.cat([to_tensor(image) for image in images]).to(DEVICE)


def _crop(random: Random, palette: Palette) -> Image.Image:
    scene = _random_scene(random, random.choice(SIDES_PX), random.choice(SIDES_PX))
    x, y = random.choice(scene.placed).centre_px
    left = min(max(0, int(x) - random.randrange(_CROP_PX)), scene.width - _CROP_PX)
    top = min(max(0, int(y) - random.randrange(_CROP_PX)), scene.height - _CROP_PX)
    return draw(scene, palette).crop((left, top, left + _CROP_PX, top + _CROP_PX))


def _random_scene(random: Random, width: int, height: int) -> Scene:
    return arrange(random_description(random, num_things=random.choice((1, 2))), random, width=width, height=height)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as a tensor [1, 3, height, width], −1 … 1."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Sequence[Image.Image]) -> torch.Tensor:
    """Encode images of one size as latents [images, 4, height / 8, width / 8], scaled as the UNet reads them."""
    with torch.autocast(DEVICE.type, torch.bfloat16):
        posterior = vae.encode(torch.cat([to_tensor(image) for image in images]).to(DEVICE)).latent_dist
    latents: torch.Tensor = posterior.mean.float() * vae.config.scaling_factor
    return latents


@torch.inference_mode()
def reconstruct(vae: AutoencoderKL, image: Image.Image) -> Image.Image:
    """Encode an image and decode the mean of its posterior."""
    decoded = vae.decode(vae.encode(to_tensor(image).to(vae.device)).latent_dist.mean).sample
    pixels = ((decoded[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


@torch.inference_mode()
def reconstruction_psnr_db(
    vae: AutoencoderKL, *, images_per_size: int, seed: int, palette: Palette = RGB
) -> list[float]:
    """Return the PSNR in dB of unseen images decoded from the means of their posteriors, over all 169 sizes."""
    random = Random(f"unseen {seed}")
    scores = []
    for width in SIDES_PX:
        for height in SIDES_PX:
            images = torch.cat(
                [to_tensor(draw(_random_scene(random, width, height), palette)) for _ in range(images_per_size)]
            )
            decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
            mse = (decoded - images).square().mean(dim=(1, 2, 3)) / 4
            scores += (-10 * mse.log10()).tolist()
    return scores
