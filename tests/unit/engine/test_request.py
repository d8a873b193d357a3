"""A running request: what inpainting restores at each step."""

from __future__ import annotations

import pytest
import torch

from atelier.engine.request import InpaintState
from atelier.engine.schedules import ALPHA, SIGMA
from tests.unit.engine.requests import new_request, running


@pytest.mark.parametrize("step_index", [0, 1, 3])
def test_the_kept_part_has_the_noise_level_of_the_step(step_index: int) -> None:
    request = running(new_request(), {"positive": 1.0})
    request.latents += 9
    x0, noise = torch.full_like(request.latents, 2), torch.full_like(request.latents, 3)
    mask = torch.zeros(request.latents.shape[2:])
    mask[:, 6:] = 1
    request.inpaint = InpaintState(x0=x0, noise=noise, mask=mask)
    request.step_index = step_index
    request.restore_kept_part()
    level = request.schedule.steps[step_index]
    assert torch.allclose(request.latents[..., :6], torch.tensor(2 * level[ALPHA] + 3 * level[SIGMA]).float())
    assert (request.latents[..., 6:] == 9).all()


def test_the_kept_part_ends_without_noise() -> None:
    request = running(new_request(), {"positive": 1.0})
    x0 = torch.full_like(request.latents, 2)
    request.inpaint = InpaintState(x0=x0, noise=torch.ones_like(x0), mask=torch.zeros(x0.shape[2:]))
    request.step_index = len(request.schedule.steps)
    request.restore_kept_part()
    assert torch.equal(request.latents, x0)
