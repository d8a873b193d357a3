"""The rows that controls act on, and where residuals are added."""

from __future__ import annotations

import numpy as np
import torch

from atelier.control.residuals import Residuals
from atelier.core.control import Control
from atelier.core.sampling import Sampling
from atelier.engine.control import StepControl
from atelier.engine.request import RunningRequest
from atelier.families.family import Encoded
from tests.unit.engine.requests import new_batch, new_request, prompts, running


def _control(controlnet: str, **settings: float | bool) -> Control:
    return Control(
        controlnet=controlnet,
        control_image=np.zeros((64, 96, 3), dtype=np.uint8),
        controlnet_conditioning_scale=0.5,
        **settings,  # type: ignore[arg-type]
    )


def _step_control(*requests: RunningRequest) -> StepControl:
    """The ControlNet calls of a step in which row i has the timestep i and a model input filled with i."""
    batch = new_batch(requests[0])
    for request in requests:
        batch.join(request, prompts(request, *[0.0] * len(request.request.embeds)))
    [call] = batch.packed.calls
    rows = torch.arange(float(len(call.refs)))
    return StepControl.of(requests, call, rows.view(-1, 1, 1, 1).expand(-1, 4, 8, 12), rows, width=None)


def test_control_acts_on_both_roles_of_its_request() -> None:
    plain = running(new_request())
    controlled = running(new_request(num_images=2, controls=[_control("canny")]))
    [call] = _step_control(plain, controlled).calls
    assert call.controlnet == "canny"
    assert [row.role for row in call.rows] == ["negative", "negative", "positive", "positive"]
    assert call.timesteps.tolist() == [2, 3, 4, 5]
    assert call.model_input[:, 0, 0, 0].tolist() == [2, 3, 4, 5]


def test_guess_mode_acts_on_positive_rows_only() -> None:
    request = running(new_request(controls=[_control("canny", guess_mode=True), _control("depth")]))
    calls = {call.controlnet: call for call in _step_control(request).calls}
    assert [row.role for row in calls["canny"].rows] == ["positive"]
    assert calls["canny"].timesteps.tolist() == [1]
    assert [row.role for row in calls["depth"].rows] == ["negative", "positive"]


def test_guess_mode_acts_without_guidance() -> None:
    request = new_request(controls=[_control("canny", guess_mode=True)], guidance_scale=1.0)
    [call] = _step_control(running(request)).calls
    assert [row.role for row in call.rows] == ["positive"]


def test_control_acts_between_its_start_and_end() -> None:
    request = running(
        new_request(controls=[_control("canny", control_guidance_start=0.25, control_guidance_end=0.75)])
    )
    num_calls = []
    for step_index in range(4):
        request.step_index = step_index
        num_calls.append(len(_step_control(request).calls))
    assert num_calls == [0, 1, 1, 0]


def test_a_window_is_in_shares_of_the_steps_that_are_run() -> None:
    """As in diffusers, whose `controlnet_keep` has an item per timestep that `strength` leaves."""
    controls = [_control("canny", control_guidance_start=0.5)]
    request = running(new_request(controls=controls, sampling=Sampling(num_inference_steps=8, strength=0.5)))
    num_calls = []
    for step_index in range(4):
        request.step_index = step_index
        num_calls.append(len(_step_control(request).calls))
    assert num_calls == [0, 0, 1, 1]


def test_residuals_are_added_to_the_rows_they_belong_to() -> None:
    plain = running(new_request(guidance_scale=1.0))
    controlled = running(new_request(controls=[_control("canny", guess_mode=True), _control("depth")]))
    requests = [controlled, plain]
    step_control = _step_control(*requests)
    encoded = Encoded(torch.zeros(3, 1, 1, 1), torch.zeros(3, 1), (torch.zeros(3, 1, 1, 1),))
    residuals = {
        "canny": Residuals((_column(10.0),), _column(1.0), "hash of canny"),
        "depth": Residuals((_column(200.0, 300.0),), _column(2.0, 3.0), "hash of depth"),
    }
    step_control.add([residuals[call.controlnet] for call in step_control.calls], encoded, requests)
    assert encoded.hidden_states.flatten().tolist() == [2.0, 4.0, 0.0]
    assert encoded.skips[0].flatten().tolist() == [200.0, 310.0, 0.0]
    assert controlled.weights == {"canny": "hash of canny", "depth": "hash of depth"}
    assert plain.weights == {}


def _column(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)
