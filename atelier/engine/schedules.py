"""Computes the coefficients of every step from a model's scheduler config and a request's sampling.

Timesteps and noise levels are those of the diffusers scheduler that `core.sampling.SAMPLERS` names. The result is one
row of float64 numbers per step, computed when a request is admitted and cached for the next request with the same
sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import diffusers
import numpy as np
import numpy.typing as npt
from diffusers import SchedulerMixin

from atelier.core.sampling import SAMPLERS, Sampler, Sampling, ScheduleName, Setting
from atelier.engine import samplers
from atelier.engine.samplers import Array, Coefficients, Levels

#: Config settings of a diffusers scheduler that select each schedule.
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
    """Timestep, noise level and coefficients of every step of a request.

    Before a step the latents are x = α·x₀ + σ·ε. The UNet reads c_in·x at the timestep and returns noise_pred; the
    prediction of x₀ is D = c_skip·x + c_out·noise_pred. The next latents are a·x + b0·D + b1·D₋₁ + b2·D₋₂ + s·noise,
    with D₋₁ and D₋₂ from the two steps before.
    """

    #: One row per UNet evaluation, [steps, 11]; the columns are `TIMESTEP` to `S`.
    steps: npt.NDArray[np.float64]
    #: Standard deviation of the noise that an image starts from.
    init_noise_sigma: float


class Schedules:
    """Computes and caches the schedules of one model, one `Schedule` per `Sampling`."""

    def __init__(self, config: Mapping[str, object]) -> None:
        """`config` is the config of the model's diffusers scheduler.

        Raises ValueError if it clips or thresholds predictions, if its `prediction_type` is neither epsilon nor
        v_prediction, because the formula of the samplers cannot express these, or if steps begin at pure noise
        without v_prediction: noise predicted from noise says nothing about the image (Lin et al. 2024, §3.2).
        """
        if config.get("clip_sample") or config.get("thresholding"):
            raise ValueError("the scheduler clips its predictions (clip_sample or thresholding); set both to false")
        prediction_type = config.get("prediction_type", "epsilon")
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {prediction_type!r} is not one of epsilon, v_prediction")
        if config.get("rescale_betas_zero_snr") and prediction_type == "epsilon":
            raise ValueError("rescale_betas_zero_snr needs the prediction_type v_prediction")
        self._config = config
        self._predicts_v = prediction_type == "v_prediction"
        #: Returns the `Schedule` of a `Sampling`; equal samplings share one.
        self.of = lru_cache(maxsize=1024)(self._of)

    def _of(self, sampling: Sampling) -> Schedule:
        sampler = SAMPLERS[sampling.sampler]
        scheduler = _new_scheduler(self._config, sampler, sampling)
        first = (sampling.num_inference_steps - sampling.num_taken_steps) * sampler.order
        timesteps = np.asarray(scheduler.timesteps, dtype=np.float64)[first:]
        levels = _levels(sampler, scheduler).from_step(first)
        coefficients = _coefficients(sampler, levels, scheduler, sampling, timesteps)
        c_in = 1 / np.hypot(levels.alpha, levels.sigma)
        c_skip, c_out = self._denoiser(levels, c_in)
        formula = (coefficients.a, coefficients.b0, coefficients.b1, coefficients.b2, coefficients.s)
        return Schedule(
            steps=np.stack([timesteps, levels.alpha, levels.sigma, c_in, c_skip, c_out, *formula], axis=1),
            init_noise_sigma=float(scheduler.init_noise_sigma),
        )

    def _denoiser(self, levels: Levels, c_in: Array) -> tuple[Array, Array]:
        """Return c_skip and c_out, which give x₀ from predicted noise or v = α·ε − σ·x₀ (Salimans & Ho 2022, §4)."""
        if self._predicts_v:
            return levels.alpha * c_in**2, -levels.sigma * c_in
        return 1 / levels.alpha, -levels.sigma / levels.alpha


def _new_scheduler(config: Mapping[str, object], sampler: Sampler, sampling: Sampling) -> SchedulerMixin:
    """Create the sampler's diffusers scheduler with its timesteps set.

    Settings that the sampler does not fix come from the model's config.
    """
    schedule = {} if sampling.schedule is None else _SCHEDULES[sampling.schedule]
    scheduler = getattr(diffusers, sampler.scheduler).from_config(config, **sampler.settings, **schedule)
    scheduler.set_timesteps(sampling.num_inference_steps)
    return scheduler


def _levels(sampler: Sampler, scheduler: SchedulerMixin) -> Levels:
    match sampler.levels:
        case "sigmas":
            return _levels_of_sigmas(scheduler, is_scaled=False)
        case "scaled_sigmas":
            return _levels_of_sigmas(scheduler, is_scaled=True)
        case "timesteps":
            timesteps = np.asarray(scheduler.timesteps)
            return _levels_of_timesteps(scheduler, np.append(timesteps[1:], -1), final_alpha_cumprod=1.0)
        case "ddim_timesteps":
            timesteps = np.asarray(scheduler.timesteps)
            stride = scheduler.config.num_train_timesteps // len(timesteps)
            return _levels_of_timesteps(
                scheduler, timesteps - stride, final_alpha_cumprod=float(scheduler.final_alpha_cumprod)
            )


def _levels_of_sigmas(scheduler: SchedulerMixin, *, is_scaled: bool) -> Levels:
    """Return noise levels from the scheduler's sigmas, with α = 1 or, if `is_scaled`, scaled to α² + σ² = 1."""
    sigmas = np.asarray(scheduler.sigmas, dtype=np.float64)
    alphas = 1 / np.sqrt(sigmas**2 + 1) if is_scaled else np.ones_like(sigmas)
    sigmas = sigmas * alphas
    return Levels(alphas[:-1], sigmas[:-1], alphas[1:], sigmas[1:])


def _levels_of_timesteps(
    scheduler: SchedulerMixin, next_timesteps: npt.NDArray[np.int64], *, final_alpha_cumprod: float
) -> Levels:
    """Return noise levels, with α² = ᾱ, at the scheduler's timesteps and after each step, at `next_timesteps`.

    ᾱ is the scheduler's `alphas_cumprod`; at a negative timestep it is `final_alpha_cumprod`.
    """
    alphas_cumprod = np.asarray(scheduler.alphas_cumprod, dtype=np.float64)
    now = alphas_cumprod[np.asarray(scheduler.timesteps)]
    after = np.where(next_timesteps >= 0, alphas_cumprod[next_timesteps], final_alpha_cumprod)
    return Levels(np.sqrt(now), np.sqrt(1 - now), np.sqrt(after), np.sqrt(1 - after))


def _coefficients(
    sampler: Sampler, levels: Levels, scheduler: SchedulerMixin, sampling: Sampling, timesteps: Array
) -> Coefficients:
    match sampler.formula:
        case "ddim":
            return samplers.ddim(levels, eta=sampling.eta if sampler.eta is None else sampler.eta)
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
