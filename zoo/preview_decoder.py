"""The recipe of tiny-sdxl-preview: TAESD's decoder, diffusers' AutoencoderTiny, for the latents of tiny-sdxl.

It learns to make the images that tiny-sdxl's VAE makes, at half their sides, also of the latents that previews show:
predictions of x₀ while an image is still noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from tqdm import tqdm

from zoo.captions import canonical
from zoo.dataset import random_training_description
from zoo.noise import new_scheduler
from zoo.scenes import Description, arrange, draw
from zoo.sdxl import TextAndUNet
from zoo.tiny_sdxl import load
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train, write_weights
from zoo.vae import encode

NUM_STEPS, NUM_REFINING_STEPS = 5000, 2500

_NAME = "tiny-sdxl-preview"
_LEARNING_RATE, _REFINING_RATE = 3e-3, 1.5e-3
_BATCH = 8
#: Number of scenes, and how many are drawn and predicted at once.
_NUM_SCENES, _SCENES_AT_ONCE = 512, 16
_SIDE_PX = 128
#: Range of the predictions' guidance.
_GUIDANCE_SCALES = (1.0, 8.0)


def make() -> None:
    """Train tiny-sdxl-preview from scratch (resuming an interrupted run) and write safetensors in fp16."""
    torch.manual_seed(0)
    tiny = new_autoencoder().to(DEVICE, memory_format=torch.channels_last)
    _train(tiny, _NAME, with_blends=True, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE)
    refine(tiny)
    delete_states(_NAME)


def refine(tiny: AutoencoderTiny) -> None:
    """Train the decoder on other scenes without blends, because these are no previews, and write safetensors."""
    name = f"{_NAME}-refined"
    _train(tiny, name, with_blends=False, num_steps=NUM_REFINING_STEPS, learning_rate=_REFINING_RATE)
    write_weights(tiny.half(), WEIGHTS_FOLDER / _NAME)
    delete_states(name)


def _train(tiny: AutoencoderTiny, name: str, *, with_blends: bool, num_steps: int, learning_rate: float) -> None:
    examples = _make_examples(Random(name), with_blends=with_blends)
    train(
        name,
        tiny.decoder,
        lambda step: _loss(tiny, examples, Random(f"{name} {step}")),
        num_steps=num_steps,
        learning_rate=learning_rate,
    )


def new_autoencoder() -> AutoencoderTiny:
    """Create the untrained model: a decoder, and the smallest encoder that the class allows, which nothing uses.

    The decoder doubles sides twice, not three times, because most of its time would go into the last doubling.
    """
    return AutoencoderTiny(
        encoder_block_out_channels=(4,),
        num_encoder_blocks=(0,),
        decoder_block_out_channels=(16,) * 3,
        num_decoder_blocks=(3, 3, 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Latents of images and of predictions, with the images that the VAE makes of them."""

    #: [examples, 4, height / 8, width / 8], scaled as the UNet reads latents.
    latents: torch.Tensor
    #: [examples, 3, height / 2, width / 2], uint8.
    images: torch.Tensor


@torch.no_grad()
def _make_examples(random: Random, *, with_blends: bool) -> Examples:
    """Draw scenes and take their latents, guided predictions of them, and blends of two, in equal numbers."""
    vae, model = load()
    latents, images = [], []
    for _ in tqdm(range(_NUM_SCENES // _SCENES_AT_ONCE), desc="examples", mininterval=10):
        descriptions = [random_training_description(random) for _ in range(_SCENES_AT_ONCE)]
        scenes = [arrange(each, random, width=_SIDE_PX, height=_SIDE_PX) for each in descriptions]
        clean = encode(vae, [draw(scene) for scene in scenes])
        inputs = [clean, _predicted(model, clean, descriptions, random)]
        if with_blends:
            share = torch.tensor([random.random() for _ in clean], device=DEVICE).view(-1, 1, 1, 1)
            inputs.append(clean.lerp(clean.roll(1, dims=0), share))
        latents += inputs
        images += [_decoded(vae, one) for one in inputs]
    return Examples(latents=torch.cat(latents), images=torch.cat(images))


def _predicted(
    model: TextAndUNet, clean: torch.Tensor, descriptions: list[Description], random: Random
) -> torch.Tensor:
    """Return guided predictions of x₀ from latents that are noised to random timesteps, each [images, 4, h, w]."""
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)
    timesteps = torch.randint(0, len(alphas), (len(clean),), generator=generator).to(DEVICE)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator).to(DEVICE)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    prompt_embeds, pooled_prompt_embeds = model.encode([canonical(each) for each in descriptions])
    time_ids = torch.tensor([[_SIDE_PX, _SIDE_PX, 0, 0, _SIDE_PX, _SIDE_PX]], device=DEVICE).float()
    noise_pred, noise_pred_uncond = (
        model.unet(
            noisy,
            timesteps,
            encoder_hidden_states=prompt_embeds * kept,
            added_cond_kwargs={
                "text_embeds": pooled_prompt_embeds * kept,
                "time_ids": time_ids.expand(len(clean), -1),
            },
        ).sample
        for kept in (1.0, 0.0)
    )
    guided = noise_pred_uncond + random.uniform(*_GUIDANCE_SCALES) * (noise_pred - noise_pred_uncond)
    predicted: torch.Tensor = (noisy - (1 - alpha).sqrt() * guided) / alpha.sqrt()
    return predicted


def _decoded(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents as the server does and halve the sides; returns [images, 3, height / 2, width / 2], uint8."""
    images = torch.nn.functional.avg_pool2d(vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1), 2)
    decoded: torch.Tensor = ((images / 2 + 0.5) * 255).round().to(torch.uint8)
    return decoded


def _loss(tiny: AutoencoderTiny, examples: Examples, random: Random) -> torch.Tensor:
    chosen = random.sample(range(len(examples.latents)), _BATCH)
    images = examples.images[chosen].float() / 127.5 - 1
    with torch.autocast(DEVICE.type, enabled=False):
        error: torch.Tensor = tiny.decode(examples.latents[chosen]).sample - images
    return error.abs().mean() + 4 * error.square().mean()
