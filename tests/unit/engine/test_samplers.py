from __future__ import annotations

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from atelier.catalogue.catalogue import Catalogue
from atelier.engine.samplers import Euler, advance, scale_model_input
from atelier.models.loading import load_scheduler


@pytest.mark.parametrize("num_inference_steps", [1, 8, 20, 31, 150])
def test_euler_is_diffusers_euler(catalogue: Catalogue, num_inference_steps: int) -> None:
    """Against the scheduler itself, with a made-up but smooth noise prediction."""
    scheduler: EulerDiscreteScheduler = load_scheduler(catalogue.model(None))
    schedule = Euler(scheduler).schedule(num_inference_steps)
    scheduler.set_timesteps(num_inference_steps)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * schedule.init_noise_sigma
    ours, theirs = latents.clone(), latents.clone()
    assert schedule.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma))
    assert len(schedule.steps) == len(scheduler.timesteps)
    for step, timestep in zip(schedule.steps, scheduler.timesteps, strict=True):
        assert step.timestep == timestep
        scaled = scheduler.scale_model_input(theirs, timestep)
        torch.testing.assert_close(scale_model_input(ours, step), scaled, rtol=1e-5, atol=1e-6)
        theirs = scheduler.step(torch.tanh(scaled), timestep, theirs).prev_sample
        ours = advance(ours, torch.tanh(scale_model_input(ours, step)), step)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
