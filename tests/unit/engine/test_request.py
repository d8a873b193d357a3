"""A running request: what inpainting restores after each step, and the noise of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atelier.core.sampling import Sampling
from atelier.engine.readback import Finite, Readback
from atelier.engine.request import InpaintState, RunningRequest, StepState, Submitted
from atelier.engine.schedules import ALPHA, SIGMA
from tests.unit.engine.requests import new_request, running


@pytest.mark.parametrize("step_index", [0, 1, 2])
def test_the_kept_part_has_the_noise_level_after_the_step(step_index: int) -> None:
    request = running(new_request())
    x0, noise = torch.full_like(request.latents, 2), torch.full_like(request.latents, 3)
    mask = torch.zeros(request.latents.shape[2:])
    mask[:, 6:] = 1
    request.inpaint = InpaintState(x0=x0, noise=noise, mask=mask)
    request.step_index = step_index
    restored = request.restored(torch.full_like(request.latents, 9))
    level = request.schedule.steps[step_index + 1]
    assert torch.allclose(restored[..., :6], torch.tensor(2 * level[ALPHA] + 3 * level[SIGMA]).float())
    assert (restored[..., 6:] == 9).all()


def test_the_kept_part_ends_without_noise() -> None:
    request = running(new_request())
    x0 = torch.full_like(request.latents, 2)
    request.inpaint = InpaintState(x0=x0, noise=torch.ones_like(x0), mask=torch.zeros(x0.shape[2:]))
    request.step_index = len(request.schedule.steps) - 1
    assert torch.equal(request.restored(torch.full_like(x0, 9)), x0)


def _drawn(request: RunningRequest) -> torch.Tensor:
    noise = request.draw_noise()
    assert noise is not None
    return noise


def test_a_step_keeps_its_noise_until_it_is_done() -> None:
    request = running(new_request(num_images=2, sampling=Sampling(num_inference_steps=4, sampler="euler_a")))
    first = _drawn(request)
    assert torch.equal(_drawn(request), first)
    finite = Finite(Readback(torch.tensor([True, True])), slice(0, 2))
    request.commit(StepState(latents=request.latents, denoised=request.latents, finite=finite))
    second = _drawn(request)
    assert not torch.equal(second, first)
    expected = torch.Generator().manual_seed(1)
    for noise in (first, second):
        assert torch.equal(noise[1], torch.randn(noise.shape[1:], generator=expected))


def test_noise_drawn_for_some_images_is_not_drawn_again() -> None:
    """A step that failed while it drew goes on where it stopped."""
    requests = [
        running(new_request(num_images=2, sampling=Sampling(num_inference_steps=4, sampler="euler_a")))
        for _ in range(2)
    ]
    interrupted, whole = requests
    interrupted.noise.append(torch.randn(interrupted.latents.shape[1:], generator=interrupted.generators[0]))
    assert torch.equal(_drawn(interrupted), _drawn(whole))


def test_a_step_of_a_sampler_without_noise_draws_none() -> None:
    assert running(new_request(sampling=Sampling(num_inference_steps=4, sampler="euler"))).draw_noise() is None


@pytest.mark.parametrize(
    ("changes", "due_s"),
    [
        ({}, 160),
        ({"priority": "interactive"}, 110),
        ({"priority": "batch"}, 3700),
        ({"time_limit_s": 30.0, "has_deadline": True}, 130),
        ({"time_limit_s": 300.0, "has_deadline": True}, 160),
        ({"time_limit_s": 30.0}, 160),
        ({"priority": "batch", "is_repeated": True}, 100),
    ],
)
def test_a_request_is_due_by_its_priority_its_deadline_and_at_once_if_it_was_lost(
    changes: dict[str, object], due_s: float
) -> None:
    request = replace(new_request(), **changes)  # type: ignore[arg-type]
    assert Submitted(request, emit=lambda _: None, submitted_s=100).due_s == due_s
