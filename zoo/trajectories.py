"""Trajectories of tiny-sdxl with guidance, from noise to finished latents: what a student with few steps learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from zoo.captions import random_wording
from zoo.dataset import random_training_description
from zoo.noise import new_scheduler
from zoo.sdxl import TextAndUNet
from zoo.training import DEVICE

#: Number of trajectories by (width, height) in pixels.
SIZES: dict[tuple[int, int], int] = {
    (128, 128): 1200,
    (64, 64): 24,
    (96, 96): 24,
    (160, 160): 24,
    (96, 128): 24,
    (128, 96): 24,
    (128, 160): 24,
    (160, 128): 24,
    (64, 128): 24,
    (128, 64): 24,
    (96, 160): 24,
    (160, 96): 24,
    (120, 136): 24,
    (144, 104): 24,
}

#: Steps of the teacher for each step of the student, and its guidance.
_SUBSTEPS, _GUIDANCE_SCALE = 4, 5.0
#: Fraction of the trajectories of an empty prompt.
_EMPTY = 0.03
_BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectories:
    """Trajectories of images of one size."""

    width: int
    height: int
    prompts: list[str]
    #: Latents before each step of the student, and the finished ones: [images, steps + 1, 4, height / 8, width / 8].
    states: torch.Tensor

    @property
    def time_ids(self) -> torch.Tensor:
        """Time ids of an image that is not a crop, [1, 6]."""
        return torch.tensor([[self.height, self.width, 0, 0, self.height, self.width]], dtype=torch.float32)


def trailing_sigmas(num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the timesteps [steps] and noise levels [steps + 1] of a schedule with trailing timesteps."""
    scheduler = new_scheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    return scheduler.timesteps, scheduler.sigmas


def make_trajectories(teacher: TextAndUNet, num_steps: int, file: Path) -> list[Trajectories]:
    """Draw the trajectories of every size, or read them from `file` where an interrupted run left them."""
    prompts = [list(_prompts(Random(f"prompts {size}"), count)) for size, count in SIZES.items()]
    if file.exists():
        read = load_file(file)
        states = [read[f"{width}x{height}"] for width, height in SIZES]
    else:
        states = _draw_all(teacher, num_steps, prompts)
        file.parent.mkdir(exist_ok=True)
        save_file({f"{w}x{h}": drawn for (w, h), drawn in zip(SIZES, states, strict=True)}, file)
    return [
        Trajectories(width=width, height=height, prompts=of_size, states=drawn)
        for (width, height), of_size, drawn in zip(SIZES, prompts, states, strict=True)
    ]


def _prompts(random: Random, count: int) -> Iterator[str]:
    for _ in range(count):
        wording = random_wording(random_training_description(random), random)
        yield "" if random.random() < _EMPTY else wording


@torch.no_grad()
def _draw_all(teacher: TextAndUNet, num_steps: int, prompts: list[list[str]]) -> list[torch.Tensor]:
    bar = tqdm(total=sum(SIZES.values()), desc="draw trajectories", mininterval=10)
    drawn = []
    for (width, height), of_size in zip(SIZES, prompts, strict=True):
        generator = torch.Generator().manual_seed(1000 * width + height)
        batches = []
        for start in range(0, len(of_size), _BATCH):
            batch = of_size[start : start + _BATCH]
            noise = torch.randn(len(batch), 4, height // 8, width // 8, generator=generator)
            batches.append(_draw(teacher, num_steps, batch, noise))
            bar.update(len(batch))
        drawn.append(torch.cat(batches))
    return drawn


def _draw(teacher: TextAndUNet, num_steps: int, prompts: list[str], noise: torch.Tensor) -> torch.Tensor:
    """Integrate the teacher's guided ODE by Euler's method; return every `_SUBSTEPS`th state."""
    timesteps, sigmas = trailing_sigmas(num_steps * _SUBSTEPS)
    height, width = (8 * side for side in noise.shape[2:])
    time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
    count = len(prompts)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        embeds, pooled = teacher.encode(prompts)
        conditions = {
            "encoder_hidden_states": torch.cat([torch.zeros_like(embeds), embeds]),
            "added_cond_kwargs": {
                "text_embeds": torch.cat([torch.zeros_like(pooled), pooled]),
                "time_ids": time_ids.expand(2 * count, -1).to(DEVICE),
            },
        }
        latents = noise.to(DEVICE) * sigmas[0]
        states = [latents]
        for step, timestep in enumerate(timesteps):
            scaled = latents / (sigmas[step] ** 2 + 1).sqrt()
            both = teacher.unet(torch.cat([scaled, scaled]), timestep, **conditions).sample.float()
            uncond, cond = both.chunk(2)
            noise_pred = uncond + _GUIDANCE_SCALE * (cond - uncond)
            latents = latents + (sigmas[step + 1] - sigmas[step]) * noise_pred
            if (step + 1) % _SUBSTEPS == 0:
                states.append(latents)
    return torch.stack(states, dim=1)
