"""From a model's scheduler and a request's sampling to the numbers of every step.

Timesteps and noise levels are those of the diffusers scheduler of that name; one row of float64 numbers per step,
made when a request is admitted and kept for the next one like it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from atelier.core.sampling import SamplerName, Sampling, ScheduleName
from atelier.engine import samplers
from atelier.engine.samplers import Array, Coefficients, Levels

Setting = str | int | float | bool

_SOLVER: Mapping[str, Setting] = {"solver_order": 2, "lower_order_final": True, "final_sigmas_type": "zero"}
_DPMPP: Mapping[str, Setting] = {**_SOLVER, "solver_type": "midpoint", "euler_at_final": False}
#: diffusers' class and settings of each sampler; everything else is the model's.
DIFFUSERS: Final[Mapping[SamplerName, tuple[type[SchedulerMixin], Mapping[str, Setting]]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {**_DPMPP, "algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {**_DPMPP, "algorithm_type": "sde-dpmsolver++"}),
    "lcm": (LCMScheduler, {"clip_sample": False}),
    "unipc": (UniPCMultistepScheduler, {**_SOLVER, "solver_type": "bh2", "predict_x0": True}),
    "heun": (HeunDiscreteScheduler, {"clip_sample": False}),
}
_SCHEDULES: Final[Mapping[ScheduleName, Mapping[str, Setting]]] = {
    "normal": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True, "use_exponential_sigmas": False},
    "exponential": {"use_karras_sigmas": False, "use_exponential_sigmas": True},
}
#: Columns of `Schedule.steps`.
TIMESTEP, ALPHA, SIGMA, C_IN, C_SKIP, C_OUT, A, B0, B1, B2, S = range(11)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The numbers of a request's steps.

    Before a step the latents are x = α·x₀ + σ·ε. The UNet sees c_in·x at the timestep, and
    D = c_skip·x + c_out·(what it answers); then comes the formula of `samplers`.
    """

    #: [steps, 11]; the columns are named above.
    steps: npt.NDArray[np.float64]
    #: Standard deviation of the noise a picture starts from.
    init_noise_sigma: float


def new_scheduler(config: Mapping[str, object], sampling: Sampling) -> SchedulerMixin:
    """The diffusers scheduler that a request's steps follow, its timesteps set."""
    kind, settings = DIFFUSERS[sampling.sampler]
    spacing = {} if sampling.schedule is None else _SCHEDULES[sampling.schedule]
    scheduler = kind.from_config(config, **settings, **spacing)
    scheduler.set_timesteps(sampling.num_inference_steps)
    return scheduler


class Schedules:
    """The schedules of one model."""

    def __init__(self, config: Mapping[str, object]) -> None:
        """Raises ValueError if the model's scheduler does what the formula cannot: clipping, thresholding, x₀."""
        if config.get("clip_sample") or config.get("thresholding"):
            raise ValueError("the scheduler clips its predictions (clip_sample or thresholding); set both to false")
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {prediction_type!r} is not one of epsilon, v_prediction")
        self._config = config
        self._predicts_v = prediction_type == "v_prediction"
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, sampling: Sampling) -> Schedule:
        scheduler = new_scheduler(self._config, sampling)
        first = (sampling.num_inference_steps - sampling.num_taken_steps) * scheduler.order
        timesteps = np.asarray(scheduler.timesteps, dtype=np.float64)[first:]
        levels = _levels(scheduler, sampling.sampler).from_step(first)
        coefficients = _coefficients(levels, scheduler, sampling, timesteps)
        c_in = 1 / np.hypot(levels.alpha, levels.sigma)
        c_skip, c_out = self._denoiser(levels, c_in)
        of_formula = (coefficients.a, coefficients.b0, coefficients.b1, coefficients.b2, coefficients.s)
        return Schedule(
            steps=np.stack([timesteps, levels.alpha, levels.sigma, c_in, c_skip, c_out, *of_formula], axis=1),
            init_noise_sigma=float(scheduler.init_noise_sigma),
        )

    def _denoiser(self, levels: Levels, c_in: Array) -> tuple[Array, Array]:
        """c_skip and c_out: x₀ from the predicted noise, or from v = α·ε − σ·x₀ (Salimans & Ho 2022, §4)."""
        if self._predicts_v:
            return levels.alpha * c_in**2, -levels.sigma * c_in
        return 1 / levels.alpha, -levels.sigma / levels.alpha


def _levels(scheduler: SchedulerMixin, sampler: SamplerName) -> Levels:
    if sampler in ("ddim", "lcm"):
        return _levels_of_timesteps(scheduler, sampler)
    sigmas = np.asarray(scheduler.sigmas, dtype=np.float64)
    alphas = np.ones_like(sigmas)
    if sampler in ("dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        alphas = 1 / np.sqrt(sigmas**2 + 1)
    sigmas = sigmas * alphas
    return Levels(alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:])


def _levels_of_timesteps(scheduler: SchedulerMixin, sampler: SamplerName) -> Levels:
    """DDIM goes to the level of `timestep − train_steps // steps`, which need not be the next timestep."""
    squares = np.asarray(scheduler.alphas_cumprod, dtype=np.float64)
    timesteps = np.asarray(scheduler.timesteps)
    if sampler == "ddim":
        next_timesteps = timesteps - scheduler.config.num_train_timesteps // len(timesteps)
        last = float(scheduler.final_alpha_cumprod)
    else:
        next_timesteps, last = np.append(timesteps[1:], -1), 1.0
    now, after = squares[timesteps], np.where(next_timesteps >= 0, squares[next_timesteps], last)
    return Levels(np.sqrt(now), np.sqrt(1 - now), np.sqrt(after), np.sqrt(1 - after))


def _coefficients(levels: Levels, scheduler: SchedulerMixin, sampling: Sampling, timesteps: Array) -> Coefficients:
    match sampling.sampler:
        case "euler":
            return samplers.ddim(levels, eta=0.0)
        case "euler_a":
            return samplers.ddim(levels, eta=1.0)
        case "ddim":
            return samplers.ddim(levels, eta=sampling.eta)
        case "dpmpp_2m":
            return samplers.dpmpp_2m(levels)
        case "dpmpp_2m_sde":
            return samplers.dpmpp_2m_sde(levels)
        case "lcm":
            scaling: float = scheduler.config.timestep_scaling
            return samplers.lcm(levels, timesteps=timesteps, timestep_scaling=scaling)
        case "unipc":
            return samplers.unipc(levels)
        case "heun":
            return samplers.heun(levels)
