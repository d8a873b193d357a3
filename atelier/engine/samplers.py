"""Samplers as coefficients of one formula, x' = a·x + b0·D, with D the denoised prediction.

One row of coefficients per step, computed in float64 when a request is admitted. Samplers with memory or
noise need more terms of the same formula; for now there is Euler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCoefficients:
    timestep: float
    sigma: float
    a: float
    b0: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    #: Standard deviation of the noise a picture starts from.
    init_noise_sigma: float
    steps: tuple[StepCoefficients, ...]


class Euler:
    """Euler's method on the probability flow ODE (Karras et al. 2022, algorithm 1 without churn).

    dx/dσ = (x − D)/σ, so one step from σ to σ' is x' = (σ'/σ)·x + (1 − σ'/σ)·D.
    """

    def __init__(self, scheduler: EulerDiscreteScheduler) -> None:
        self._config = scheduler.config
        self.schedule = lru_cache(maxsize=256)(self._schedule)

    def _schedule(self, num_inference_steps: int) -> Schedule:
        """Timesteps and sigmas are diffusers'; each call has a scheduler of its own."""
        scheduler = EulerDiscreteScheduler.from_config(self._config)
        scheduler.set_timesteps(num_inference_steps)
        sigmas = scheduler.sigmas.numpy().astype(np.float64)
        ratios = sigmas[1:] / sigmas[:-1]
        return Schedule(
            init_noise_sigma=float(scheduler.init_noise_sigma),
            steps=tuple(
                StepCoefficients(timestep=float(timestep), sigma=float(sigma), a=float(ratio), b0=float(1 - ratio))
                for timestep, sigma, ratio in zip(scheduler.timesteps, sigmas, ratios, strict=False)
            ),
        )


def scale_model_input(latents: torch.Tensor, step: StepCoefficients) -> torch.Tensor:
    """The UNet's input of unit variance (Karras et al. 2022, c_in in table 1, column VE for σ_data = 1)."""
    return latents / math.sqrt(step.sigma**2 + 1)


def advance(latents: torch.Tensor, noise_pred: torch.Tensor, step: StepCoefficients) -> torch.Tensor:
    """One step: D = x − σ·ε, then the formula."""
    denoised = latents - step.sigma * noise_pred
    return step.a * latents + step.b0 * denoised
