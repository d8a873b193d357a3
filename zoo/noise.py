"""The loss of every diffusion model of the zoo: the weighted error of the predicted noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import EulerDiscreteScheduler

from zoo.training import DEVICE

#: Maximum weight of an image in the loss, so that the noisiest timesteps do not dominate.
_MAX_WEIGHT = 15.0


def new_scheduler(*, timestep_spacing: str = "leading") -> EulerDiscreteScheduler:
    """Create a scheduler with the noise schedule of Stable Diffusion 1.5 and of SDXL base.

    `timestep_spacing` is one that diffusers names.
    """
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing=timestep_spacing,
    )


def noise_error(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    alphas: torch.Tensor,
    clean: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Compute the squared error of the predicted noise (Ho et al. 2020, eq. 14), with the weights of v-prediction.

    The weight 1/α = 1 + σ² (Salimans & Ho 2022, §4) is largest at the noisiest timesteps. The colours of flat images
    are visible through all but the strongest noise, so the text matters only there.

    `predict` returns the noise in noisy latents at their timesteps, [images]. `clean` has the latents
    [images, 4, height / 8, width / 8]. The generator draws noise and timesteps.
    """
    noise = torch.randn(clean.shape, generator=generator).to(DEVICE)
    timesteps = torch.randint(0, len(alphas), (len(clean),), generator=generator).to(DEVICE)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noise_pred = predict(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, timesteps)
    weight = (1 / alpha).clamp(max=_MAX_WEIGHT)
    return (weight * (noise_pred.float() - noise).square()).mean() / weight.mean()
