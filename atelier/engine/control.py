"""ControlNets in a step: the rows (one per image and prompt role) they act on, and where residuals are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from atelier.control.calls import Contexts, ControlCall, ControlContext, ControlRow
from atelier.control.residuals import Residuals
from atelier.core.conditioning import Role, TextEmbeds
from atelier.core.control import Control
from atelier.engine.packing import Call
from atelier.engine.request import RunningRequest
from atelier.families.family import Encoded


@dataclass(frozen=True, slots=True)
class _ActingControl:
    """A control that acts on a row of a UNet call."""

    #: Index of the row in the call.
    row: int
    #: Index of the row's request in the batch.
    request: int
    #: Index of the control in its request.
    position: int
    control: Control
    control_row: ControlRow


@dataclass(frozen=True, slots=True)
class StepControl:
    """The calls of ControlNets that belong to one UNet call, one call per ControlNet."""

    calls: list[ControlCall]
    #: The contexts of all requests of the batch.
    contexts: Contexts
    #: The controls behind the rows of each call.
    _acting: list[list[_ActingControl]]

    @classmethod
    def of(
        cls,
        requests: Sequence[RunningRequest],
        call: Call,
        model_input: torch.Tensor,
        timesteps: torch.Tensor,
        *,
        width: int | None,
    ) -> StepControl:
        """Prepare the calls, from the `model_input` [rows, 4, h, w] and `timesteps` [rows] of the UNet call.

        `width` is the number of rows of every call of a ControlNet, if it is fixed.
        """
        by_controlnet: dict[str, list[_ActingControl]] = {}
        for acting in _acting_controls(requests, call):
            by_controlnet.setdefault(acting.control.controlnet, []).append(acting)
        calls = []
        for controlnet, controls in by_controlnet.items():
            rows = _row_index([acting.row for acting in controls], model_input)
            calls.append(
                ControlCall(
                    controlnet=controlnet,
                    rows=tuple(acting.control_row for acting in controls),
                    model_input=model_input[rows],
                    timesteps=timesteps[rows],
                    num_tokens=call.conditions.num_tokens,
                    width=width,
                )
            )
        contexts = {context.context_id: context for request in requests for context in request.control_contexts}
        return cls(calls, contexts, list(by_controlnet.values()))

    def add(self, residuals: Sequence[Residuals], encoded: Encoded, requests: Sequence[RunningRequest]) -> None:
        """Add the residuals of `calls` to the encoded rows, and record the ControlNets' weights in their requests.

        The residuals of a row are added in the order of its request's controls, because sums depend on the order.
        """
        answered = list(zip(residuals, self._acting, strict=True))
        for of_call, controls in answered:
            for acting in controls:
                requests[acting.request].weights[acting.control.controlnet] = of_call.weights_hash
        for position in sorted({acting.position for controls in self._acting for acting in controls}):
            for of_call, controls in answered:
                chosen = [index for index, acting in enumerate(controls) if acting.position == position]
                if chosen:
                    rows = _row_index([controls[index].row for index in chosen], encoded.hidden_states)
                    of_call.select(_row_index(chosen, encoded.hidden_states)).add_to(encoded, rows)


def control_contexts(controls: Sequence[Control], embeds: Mapping[Role, TextEmbeds]) -> tuple[ControlContext, ...]:
    """Return the contexts of a request's controls, in their order."""
    return tuple(ControlContext.of(control.controlnet, control.control_image, embeds) for control in controls)


def _acting_controls(requests: Sequence[RunningRequest], call: Call) -> list[_ActingControl]:
    """Return the controls that act on each row in its present step; in guess mode only on positive rows."""
    acting = []
    for row, ref in enumerate(call.refs):
        request = requests[ref.request]
        for position, control in enumerate(request.request.controls):
            acts = control.acts_at(request.step_index, len(request.schedule.steps))
            if acts and (ref.role == "positive" or not control.guess_mode):
                control_row = ControlRow(
                    request.control_contexts[position].context_id,
                    ref.role,
                    control.controlnet_conditioning_scale,
                    control.guess_mode,
                )
                acting.append(_ActingControl(row, ref.request, position, control, control_row))
    return acting


def _row_index(rows: list[int], like: torch.Tensor) -> slice | torch.Tensor:
    """Return an index of rows for tensors on `like`'s device; for consecutive rows a slice, which copies nothing."""
    first, last = rows[0], rows[-1]
    if rows == list(range(first, last + 1)):
        return slice(first, last + 1)
    return torch.tensor(rows, device=like.device)
