"""The samplers' timesteps and coefficients compared with those of the diffusers schedulers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, SchedulerMixin

from atelier.core.sampling import SAMPLERS, SamplerName, Sampling, ScheduleName
from atelier.engine.schedules import B0, B1, B2, C_IN, C_OUT, C_SKIP, TIMESTEP, A, S, Schedules
from tests.unit.engine.diffusers_schedulers import EVERY, SCHEDULES_OF, SDXL, new_scheduler

#: Bound on relative differences by rounding; the largest seen was 5.7e-6, on one of two processors.
_ROUNDING = 1e-5

#: Data of the analytic denoiser: independent Gaussians of this mean and standard deviation.
_MEAN, _STD = 0.3, 0.5


def _config(prediction_type: str) -> dict[str, object]:
    return {**SDXL, "prediction_type": prediction_type}


def _scheduler_of(config: Mapping[str, object], sampling: Sampling) -> SchedulerMixin:
    return new_scheduler(config, sampling.sampler, sampling.schedule, sampling.num_inference_steps)


def test_every_sampler_and_schedule_is_compared_with_diffusers() -> None:
    assert {name: set(sampler.schedules) for name, sampler in SAMPLERS.items()} == {
        name: set(schedules) for name, schedules in SCHEDULES_OF.items()
    }


def _step(scheduler: SchedulerMixin, generator: torch.Generator, eta: float) -> Callable[..., torch.Tensor]:
    """The scheduler's step, with the keywords that its sampler takes."""
    accepted = inspect.signature(scheduler.step).parameters
    extra: dict[str, object] = {"generator": generator} if "generator" in accepted else {}
    if isinstance(scheduler, DDIMScheduler):
        extra["eta"] = eta
    return lambda model_output, timestep, sample: scheduler.step(model_output, timestep, sample, **extra).prev_sample


def _analytic(model_input: torch.Tensor, step: Sequence[float], *, is_v: bool) -> torch.Tensor:
    """Return the output of a perfect model for Gaussian data, as noise or as v: E[x₀|x] in closed form.

    `model_input` is α·x₀ + σ·ε with α² + σ² = 1; α is derived from the step's c_in and c_skip.
    """
    alpha = step[C_SKIP] / step[C_IN] if is_v else step[C_IN] / step[C_SKIP]
    sigma = math.sqrt(1 - alpha**2)
    gain = alpha * _STD**2 / (alpha**2 * _STD**2 + sigma**2)
    denoised = _MEAN + gain * (model_input - alpha * _MEAN)
    noise = (model_input - alpha * denoised) / sigma
    return alpha * noise - sigma * denoised if is_v else noise


@pytest.mark.parametrize(("sampler", "schedule"), EVERY)
def test_timesteps_are_those_of_the_scheduler(sampler: SamplerName, schedule: ScheduleName | None) -> None:
    for num_inference_steps in (1, 4, 20):
        sampling = Sampling(num_inference_steps=num_inference_steps, sampler=sampler, schedule=schedule)
        made, scheduler = Schedules(SDXL).of(sampling), _scheduler_of(SDXL, sampling)
        assert made.steps[:, TIMESTEP].tolist() == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)
        assert made.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma))


def test_ddim_ends_at_the_final_alpha_of_the_models_config() -> None:
    """SDXL base sets `set_alpha_to_one` to false: its last step leaves the noise of the first training step."""
    sampling = Sampling(num_inference_steps=5, sampler="ddim")
    ends = []
    for set_alpha_to_one in (True, False):
        ours, theirs = _both({**SDXL, "set_alpha_to_one": set_alpha_to_one}, sampling, is_v=False)
        assert (ours - theirs).norm() < _ROUNDING * ours.norm()
        ends.append(ours)
    assert (ends[0] - ends[1]).norm() > 1e-3 * ends[0].norm()


@pytest.mark.parametrize("steps", [(1, 2, 3, 8), pytest.param((20, 31), marks=pytest.mark.slow)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("sampler", "schedule"), EVERY)
def test_latents_are_those_of_the_scheduler(
    sampler: SamplerName, schedule: ScheduleName | None, prediction_type: str, steps: tuple[int, ...]
) -> None:
    config, is_v = _config(prediction_type), prediction_type == "v_prediction"
    for num_inference_steps in steps:
        for eta in (0.0, 0.4, 1.0) if SAMPLERS[sampler].takes_eta else (0.0,):
            sampling = Sampling(num_inference_steps=num_inference_steps, sampler=sampler, schedule=schedule, eta=eta)
            ours, theirs = _both(config, sampling, is_v=is_v)
            assert (ours - theirs).norm() < _ROUNDING * ours.norm(), sampling


@pytest.mark.parametrize(("sampler", "schedule"), EVERY)
def test_latents_from_zero_snr_are_those_of_the_scheduler(
    sampler: SamplerName, schedule: ScheduleName | None
) -> None:
    config = {**_config("v_prediction"), "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for num_inference_steps in (1, 2, 3, 8):
        sampling = Sampling(num_inference_steps=num_inference_steps, sampler=sampler, schedule=schedule)
        ours, theirs = _both(config, sampling, is_v=True)
        # Euler's schedulers subtract float32 latents of the order σ = 4096 from each other.
        bound = 4096 * 2**-22 if sampler in ("euler", "euler_a") else _ROUNDING
        assert (ours - theirs).norm() < bound * ours.norm(), sampling


def _both(config: Mapping[str, object], sampling: Sampling, *, is_v: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Final latents of the formula and of the scheduler, from the same noise."""
    made, scheduler = Schedules(config).of(sampling), _scheduler_of(config, sampling)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    ours, theirs = (torch.randn(1, 4, 6, 6, generator=generator) for generator in generators)
    ours, theirs = ours * made.init_noise_sigma, theirs * scheduler.init_noise_sigma
    step_of_scheduler = _step(scheduler, generators[1], sampling.eta)
    denoised_1 = denoised_2 = torch.zeros_like(ours)
    for step, timestep in zip(made.steps.tolist(), scheduler.timesteps, strict=True):
        seen = scheduler.scale_model_input(theirs, timestep)
        theirs = step_of_scheduler(_analytic(seen, step, is_v=is_v), timestep, theirs)
        denoised = step[C_SKIP] * ours + step[C_OUT] * _analytic(step[C_IN] * ours, step, is_v=is_v)
        noise = torch.randn(ours.shape, generator=generators[0]) if step[S] else torch.zeros_like(ours)
        ours = step[A] * ours + step[B0] * denoised + step[B1] * denoised_1 + step[B2] * denoised_2 + step[S] * noise
        denoised_1, denoised_2 = denoised, denoised_1
    return ours, theirs


@pytest.mark.parametrize(("sampler", "schedule"), EVERY)
def test_coefficients_are_the_schedulers_answers_to_unit_impulses(
    sampler: SamplerName, schedule: ScheduleName | None
) -> None:
    """Latents of channel 0 start from 1, with predictions of x₀ of 0 in every step.

    Latents of channel k + 1 start from 0, with a prediction of 1 in step k and of 0 in the other steps.
    """
    sampling = Sampling(num_inference_steps=12, sampler=sampler, schedule=schedule)
    config = _config("epsilon")
    made, scheduler = Schedules(config).of(sampling), _scheduler_of(config, sampling)
    num_steps = len(made.steps)
    x = torch.zeros(1, num_steps + 1, 1, 1)
    x[0, 0] = 1
    step_of_scheduler = _step(scheduler, torch.Generator().manual_seed(0), 0.0)
    noise_generator = torch.Generator().manual_seed(0)
    for index, (step, timestep) in enumerate(zip(made.steps.tolist(), scheduler.timesteps, strict=True)):
        denoised = torch.zeros_like(x)
        denoised[0, index + 1] = 1
        before = x.flatten().double().numpy()
        x = step_of_scheduler(((denoised - step[C_SKIP] * x) / step[C_OUT]).float(), timestep, x)
        if made.steps[:, S].any() and (step[S] or sampler != "lcm"):
            x = x - step[S] * torch.randn(x.shape, generator=noise_generator)
        answer = x.flatten().double().numpy()
        a = answer[0] / before[0] if abs(before[0]) > 1e-4 else step[A]
        b0, b1, b2 = (
            answer[index + 1 - lag] - a * before[index + 1 - lag] if lag <= index else 0.0 for lag in range(3)
        )
        np.testing.assert_allclose(
            [a, b0, b1, b2], [step[column] for column in (A, B0, B1, B2)], rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "unipc", "heun"])
def test_many_steps_reach_the_exact_solution(sampler: SamplerName) -> None:
    """For Gaussian data the probability flow only shifts and scales latents, so its end has a closed form."""
    sampling = Sampling(num_inference_steps=150, sampler=sampler, schedule="normal")
    ours, _ = _both(_config("epsilon"), sampling, is_v=False)
    made = Schedules(_config("epsilon")).of(sampling)
    start = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * made.init_noise_sigma
    step = made.steps[0].tolist()
    alpha = step[C_IN] / step[C_SKIP]
    exact = _MEAN + _STD * (step[C_IN] * start - alpha * _MEAN) / math.sqrt(alpha**2 * _STD**2 + 1 - alpha**2)
    assert (ours - exact).abs().max() < 0.05
