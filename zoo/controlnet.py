"""The recipe of the zoo's ControlNets, trained on latents beside the frozen UNet.

Most captions leave out what the control map shows, so that the ControlNet has to supply it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, ControlNetModel
from tqdm import tqdm

from zoo.captions import colours_only, random_wording
from zoo.dataset import random_training_description
from zoo.noise import new_scheduler, noise_error
from zoo.scenes import Description, Scene, arrange, draw
from zoo.sdxl import TextAndUNet
from zoo.training import DEVICE, train
from zoo.vae import to_tensor

NUM_STEPS = 6000

DrawMap = Callable[[Scene], npt.NDArray[np.uint8]]  # [height, width, 3]

_LEARNING_RATE = 1e-3
_BATCH = 32
_NUM_IMAGES = 10_000
_SIDE_PX = 128
_ENCODE_BATCH = 50
#: Fraction of captions that name only colours; the others describe everything.
_COLOURS_ONLY = 0.75
#: Fraction of images trained with zeros in place of their prompt.
_DROP = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingImages:
    """Training images as latents, with their control maps and descriptions."""

    #: [images, 4, 16, 16], scaled as the UNet reads latents
    latents: torch.Tensor
    #: Control maps [images, 128, 128], 0 … 255: one of their three equal channels.
    maps: torch.Tensor
    descriptions: list[Description]


def train_controlnet(name: str, vae: AutoencoderKL, model: TextAndUNet, draw_map: DrawMap) -> ControlNetModel:
    """Train a ControlNet for `model` from scratch, or resume the interrupted run `name`."""
    torch.manual_seed(0)
    model.requires_grad_(False)
    controlnet = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(8, 16, 32, 64))
    controlnet = controlnet.to(DEVICE).requires_grad_(True)
    alphas = new_scheduler().alphas_cumprod.to(DEVICE)
    images = _training_images(name, vae, draw_map)

    def loss_at(step: int) -> torch.Tensor:
        return _loss(controlnet, model, alphas, images, Random(f"{name} {step}"))

    train(name, controlnet, loss_at, num_steps=NUM_STEPS, learning_rate=_LEARNING_RATE)
    return controlnet


@torch.no_grad()
def _training_images(name: str, vae: AutoencoderKL, draw_map: DrawMap) -> _TrainingImages:
    random = Random(f"{name} pictures")
    latents, maps, descriptions = [], [], []
    for _ in tqdm(range(_NUM_IMAGES // _ENCODE_BATCH), desc=f"{name}: draw", mininterval=10):
        scenes = [
            arrange(random_training_description(random), random, width=_SIDE_PX, height=_SIDE_PX)
            for _ in range(_ENCODE_BATCH)
        ]
        drawn = torch.cat([to_tensor(draw(scene)) for scene in scenes]).to(DEVICE)
        latents.append(vae.encode(drawn).latent_dist.mean * vae.config.scaling_factor)
        maps += [torch.from_numpy(draw_map(scene)[..., 0].copy()) for scene in scenes]
        descriptions += [scene.description for scene in scenes]
    return _TrainingImages(latents=torch.cat(latents), maps=torch.stack(maps), descriptions=descriptions)


def _loss(
    controlnet: ControlNetModel, model: TextAndUNet, alphas: torch.Tensor, images: _TrainingImages, random: Random
) -> torch.Tensor:
    """Compute the weighted noise error of the UNet with the ControlNet's residuals added."""
    chosen = random.sample(range(len(images.descriptions)), _BATCH)
    generator = torch.Generator().manual_seed(random.getrandbits(32))
    kept = torch.tensor([float(random.random() >= _DROP) for _ in chosen], device=DEVICE)
    with torch.no_grad():
        prompt_embeds, pooled = model.encode([_caption(images.descriptions[index], random) for index in chosen])
    prompt_embeds = prompt_embeds * kept.view(-1, 1, 1)
    side = float(_SIDE_PX)
    added = {
        "text_embeds": pooled * kept.view(-1, 1),
        "time_ids": torch.tensor([[side, side, 0.0, 0.0, side, side]], device=DEVICE).expand(_BATCH, -1),
    }
    maps = images.maps[chosen].to(DEVICE)[:, None].expand(-1, 3, -1, -1) / 255

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        skips, mid = controlnet(
            noisy,
            timesteps,
            encoder_hidden_states=prompt_embeds,
            controlnet_cond=maps,
            added_cond_kwargs=added,
            return_dict=False,
        )
        noise_pred: torch.Tensor = model.unet(
            noisy,
            timesteps,
            encoder_hidden_states=prompt_embeds,
            added_cond_kwargs=added,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=mid,
        ).sample
        return noise_pred

    return noise_error(predict, alphas, images.latents[chosen], generator)


def _caption(description: Description, random: Random) -> str:
    return colours_only(description) if random.random() < _COLOURS_ONLY else random_wording(description, random)
