"""The recipe of tiny-sdxl-lightning: a student of tiny-sdxl that takes four steps, each with one row per image.

The student learns the teacher's deterministic trajectories with guidance, as in progressive distillation (Salimans &
Ho 2022): a step of the student leads as far as four of the teacher. It often starts from its own state instead of the
teacher's, so that it learns to correct the errors of its earlier steps. Only the UNet is trained.
"""

from __future__ import annotations

from random import Random

import torch

from zoo import tiny_sdxl
from zoo.noise import new_scheduler
from zoo.sdxl import TextAndUNet
from zoo.training import DEVICE, STATE_FOLDER, WEIGHTS_FOLDER, delete_states, train
from zoo.trajectories import Trajectories, make_trajectories, trailing_sigmas

FOLDER = WEIGHTS_FOLDER / "tiny-sdxl-lightning"
NUM_INFERENCE_STEPS = 4
#: Training steps on images of the usual size, then on images of all sizes.
NUM_STEPS, NUM_REFINING_STEPS = 250, 300

_LEARNING_RATE, _REFINING_RATE = 5e-4, 2e-4
_EMA_DECAY = 0.98
#: Trajectories per training step; each takes all steps of the student.
_BATCH = 16
#: Fraction of the student's steps that start where its own step before them led, not where the teacher's did.
_OWN_STATES = 0.6
#: Error, relative to latents of unit variance, from which on the loss grows linearly.
_HUBER = 0.1


def make() -> None:
    """Distil tiny-sdxl (resuming an interrupted run) and write safetensors in fp16."""
    vae, model = tiny_sdxl.load()
    model.requires_grad_(False)
    file = STATE_FOLDER / "lightning-trajectories.safetensors"
    trajectories = make_trajectories(model, NUM_INFERENCE_STEPS, file)
    model.unet.requires_grad_(True)
    _train("lightning", model, trajectories[:1], NUM_STEPS, _LEARNING_RATE)
    _train("lightning-refined", model, trajectories, NUM_REFINING_STEPS, _REFINING_RATE)
    tiny_sdxl.write(vae, model, new_scheduler(timestep_spacing="trailing"), FOLDER)
    delete_states("lightning", "lightning-refined")
    file.unlink()


def _train(
    name: str, model: TextAndUNet, trajectories: list[Trajectories], num_steps: int, learning_rate: float
) -> None:
    weights = [len(one.prompts) for one in trajectories]

    def loss_at(step: int) -> torch.Tensor:
        random = Random(f"{name} {step}")
        [of_size] = random.choices(trajectories, weights)
        return _loss(model, of_size, random)

    train(name, model.unet, loss_at, num_steps=num_steps, learning_rate=learning_rate, ema_decay=_EMA_DECAY)


def _loss(model: TextAndUNet, trajectories: Trajectories, random: Random) -> torch.Tensor:
    """Compute the error of each step's predicted x₀ against the one that leads to the teacher's next state."""
    chosen = random.sample(range(len(trajectories.prompts)), _BATCH)
    states = trajectories.states[chosen].to(DEVICE)
    timesteps, sigmas = trailing_sigmas(NUM_INFERENCE_STEPS)
    with torch.no_grad():
        embeds, pooled = model.encode([trajectories.prompts[index] for index in chosen])
    time_ids = trajectories.time_ids.expand(_BATCH, -1).to(DEVICE)
    latents, losses = states[:, 0], []
    for step, (timestep, sigma, next_sigma) in enumerate(zip(timesteps, sigmas, sigmas[1:], strict=False)):
        is_own = torch.tensor([random.random() < _OWN_STATES for _ in chosen], device=DEVICE)
        latents = torch.where(is_own.view(-1, 1, 1, 1), latents, states[:, step])
        noise_pred = model.unet(
            latents / (sigma**2 + 1).sqrt(),
            timestep,
            encoder_hidden_states=embeds,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
        ).sample.float()
        target = (states[:, step + 1] - latents) / (next_sigma - sigma)
        losses.append(_pseudo_huber(sigma * (noise_pred - target)))
        latents = (latents + (next_sigma - sigma) * noise_pred).detach()
    return torch.stack(losses).mean()


def _pseudo_huber(error: torch.Tensor) -> torch.Tensor:
    """Return the mean over images of √(mean error² + c²) − c (Song & Dhariwal 2023, eq. 5)."""
    return ((error.square().mean(dim=(1, 2, 3)) + _HUBER**2).sqrt() - _HUBER).mean()
