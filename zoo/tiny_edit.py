"""The recipe of tiny-edit: tiny-sdxl fine-tuned to edit images by instructions, as SDXL's InstructPix2Pix.

The UNet reads the image to edit as four more channels, whose weights begin as zeros, and is also trained without the
instruction, without the image and without both (Brooks et al. 2023, §3.2). The text encoders and the VAE stay
tiny-sdxl's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInstructPix2PixPipeline, UNet2DConditionModel
from tqdm import tqdm

from zoo import tiny_sdxl
from zoo.edits import edits
from zoo.noise import new_scheduler, noise_error
from zoo.scenes import Scene, draw
from zoo.sdxl import TextAndUNet
from zoo.training import DEVICE, WEIGHTS_FOLDER, delete_states, train
from zoo.vae import to_tensor

FOLDER = WEIGHTS_FOLDER / "tiny-edit"
NUM_STEPS = 3500

_LEARNING_RATE = 1e-3
_EMA_DECAY = 0.995
_BATCH = 32
#: Number of edits by (width, height) in pixels.
_SIZES = {(128, 128): 6000, (96, 128): 350, (128, 96): 350, (64, 64): 350, (160, 160): 350}
#: Fraction of edits that are trained without the instruction; of those without the image, and of those without both.
_DROP = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edits:
    """Edits of one size."""

    instructions: list[str]
    #: Latents, [edits, 4, height / 8, width / 8] each: not scaled before, scaled after, as the UNet reads them.
    before: torch.Tensor
    after: torch.Tensor
    #: SDXL's size and crop conditioning, [6], in pixels.
    time_ids: torch.Tensor


def make() -> None:
    """Fine-tune the UNet (resuming an interrupted run), and write safetensors in fp16."""
    vae, model = tiny_sdxl.load()
    model.requires_grad_(False)
    model.unet = _with_image_channels(model.unet)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)

    @cache
    def of_sizes() -> list[_Edits]:
        return list(_encoded(vae))

    def loss_at(step: int) -> torch.Tensor:
        random = Random(f"edit {step}")
        [of_size] = random.choices(of_sizes(), [len(one.instructions) for one in of_sizes()])
        return _loss(model, alphas, of_size, random)

    train("edit", model.unet, loss_at, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE, ema_decay=_EMA_DECAY)
    tiny_sdxl.write(vae, model, new_scheduler(), FOLDER, StableDiffusionXLInstructPix2PixPipeline)
    delete_states("edit")


@torch.no_grad()
def _with_image_channels(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return a copy of the UNet with four more input channels, whose weights are zeros."""
    wide = UNet2DConditionModel.from_config({**unet.config, "in_channels": 2 * unet.config.in_channels})
    weights = unet.state_dict()
    first = torch.zeros_like(wide.conv_in.weight)
    first[:, : unet.config.in_channels] = weights["conv_in.weight"]
    wide.load_state_dict({**weights, "conv_in.weight": first})
    return wide.to(DEVICE)


@torch.no_grad()
def _encoded(vae: AutoencoderKL) -> Iterator[_Edits]:
    bar = tqdm(total=sum(_SIZES.values()), desc="encode edits", mininterval=10)
    for (width, height), count in _SIZES.items():
        endless = edits(Random(f"edits {width} {height}"), width=width, height=height)
        chosen = list(islice((edit for edit in endless if not edit.is_held_out), count))
        latents = []
        for edit in chosen:
            latents.append(vae.encode(_images(edit.before, edit.after)).latent_dist.mean)
            bar.update()
        before, after = torch.stack(latents).unbind(1)
        yield _Edits(
            instructions=[edit.instruction for edit in chosen],
            before=before,
            after=after * vae.config.scaling_factor,
            time_ids=torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=DEVICE),
        )


def _images(*scenes: Scene) -> torch.Tensor:
    return torch.cat([to_tensor(draw(scene)) for scene in scenes]).to(DEVICE)


def _loss(model: TextAndUNet, alphas: torch.Tensor, of_size: _Edits, random: Random) -> torch.Tensor:
    """Compute the weighted noise error of random edits, some of them without instruction, image or both."""
    chosen = random.sample(range(len(of_size.instructions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    chances = torch.tensor([random.random() for _ in chosen], device=DEVICE)
    has_text, has_image = (chances > 2 * _DROP).float(), ((chances < _DROP) | (chances > 3 * _DROP)).float()
    image = of_size.before[chosen] * has_image.view(-1, 1, 1, 1)
    with torch.no_grad():
        prompt_embeds, pooled = model.encode([of_size.instructions[index] for index in chosen])

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        noise_pred: torch.Tensor = model.unet(
            torch.cat([noisy, image], dim=1),
            timesteps,
            encoder_hidden_states=prompt_embeds * has_text.view(-1, 1, 1),
            added_cond_kwargs={
                "text_embeds": pooled * has_text.view(-1, 1),
                "time_ids": of_size.time_ids.expand(_BATCH, -1),
            },
        ).sample
        return noise_pred

    return noise_error(predict, alphas, of_size.after[chosen], generator)
