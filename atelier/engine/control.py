"""ControlNets in a step: which rows they act on, and their residuals added where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from atelier.control.calls import Contexts, ControlCall, ControlContext, ControlRow
from atelier.control.residuals import Residuals
from atelier.core.conditioning import TextEmbeds
from atelier.core.control import Control
from atelier.engine.packing import Call
from atelier.engine.request import ActiveRequest
from atelier.families.sdxl.unet import Encoded


@dataclass(frozen=True, slots=True)
class _Touch:
    """A control acting on a row of a UNet call."""

    row: int
    #: Its index in the batch.
    request: int
    #: Index of the control in its request.
    position: int
    control: Control
    control_row: ControlRow


@dataclass(frozen=True, slots=True)
class StepControl:
    """What ControlNets do to one UNet call."""

    calls: list[ControlCall]
    contexts: Contexts
    #: Of each call
    _touches: list[list[_Touch]]

    @classmethod
    def of(
        cls,
        requests: Sequence[ActiveRequest],
        call: Call,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        width: int | None,
    ) -> StepControl:
        """One call for each ControlNet, from the rows' [rows, 4, h, w] and [rows]."""
        by_controlnet: dict[str, list[_Touch]] = {}
        for touch in _touches(requests, call):
            by_controlnet.setdefault(touch.control.controlnet, []).append(touch)
        calls = []
        for controlnet, touches in by_controlnet.items():
            rows = _rows([touch.row for touch in touches], model_input)
            calls.append(
                ControlCall(
                    controlnet=controlnet,
                    rows=tuple(touch.control_row for touch in touches),
                    model_input=model_input[rows],
                    timesteps=timesteps[rows],
                    num_tokens=call.conditions.prompt_bias.shape[-1],
                    width=width,
                )
            )
        contexts = {context.context_id: context for request in requests for context in request.control_contexts}
        return cls(calls, contexts, list(by_controlnet.values()))

    def add(self, residuals: Sequence[Residuals], encoded: Encoded, requests: Sequence[ActiveRequest]) -> None:
        """Add the answers to `calls`, a row's in the order of its request's controls, and note who made them."""
        for of_call, touches in zip(residuals, self._touches, strict=True):
            for touch in touches:
                requests[touch.request].weights[touch.control.controlnet] = of_call.weights_hash
        for position in sorted({touch.position for touches in self._touches for touch in touches}):
            for of_call, touches in zip(residuals, self._touches, strict=True):
                chosen = [index for index, touch in enumerate(touches) if touch.position == position]
                if chosen:
                    rows = _rows([touches[index].row for index in chosen], encoded.hidden_states)
                    of_call.select(_rows(chosen, encoded.hidden_states)).add_to(encoded, rows)


def contexts_of(controls: Sequence[Control], texts: Sequence[TextEmbeds]) -> tuple[ControlContext, ...]:
    """What each control has to be told once."""
    return tuple(ControlContext.of(control.controlnet, control.control_image, texts) for control in controls)


def _touches(requests: Sequence[ActiveRequest], call: Call) -> list[_Touch]:
    touches = []
    for row, owner in enumerate(call.owners):
        request = requests[owner.request]
        has_prompt = owner.prompt == len(request.prompts) - 1
        for position, control in enumerate(request.arrival.request.controls):
            acts = control.acts_at(request.step_index, len(request.schedule.steps))
            if acts and (has_prompt or not control.guess_mode):
                context_id = request.control_contexts[position].context_id
                control_row = ControlRow(
                    context_id, owner.prompt, control.controlnet_conditioning_scale, control.guess_mode
                )
                touches.append(_Touch(row, owner.request, position, control, control_row))
    return touches


def _rows(values: list[int], like: torch.Tensor) -> slice | torch.Tensor:
    """An index of rows; of neighbours a slice, which copies nothing."""
    first, last = values[0], values[-1]
    if values == list(range(first, last + 1)):
        return slice(first, last + 1)
    return torch.tensor(values, device=like.device)
