"""Prepares the ControlNet calls of a denoising step, and adds their residuals to the UNet's rows.

A row is one image with one of its prompts. A ControlNet call has only those rows that the ControlNet acts on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from atelier.control.calls import Contexts, ControlCall, ControlRow
from atelier.control.residuals import Residuals
from atelier.core.control import Control
from atelier.engine.packing import Call
from atelier.engine.request import RunningRequest
from atelier.families.family import Encoded
from atelier.models.transfer import uploaded


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
    """The ControlNet calls that accompany one UNet call, one per ControlNet that acts on any of its rows."""

    calls: list[ControlCall]
    #: The control contexts (control image and prompts) of all requests of the batch, by id.
    contexts: Contexts
    #: For each of `calls`, the control that acts on each of its rows.
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
        """Prepare the ControlNet calls for a UNet call with `model_input` [rows, 4, h, w] and `timesteps` [rows].

        `width` is the fixed number of rows of every pass of a ControlNet; None runs all rows in one pass.
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
        contexts = {
            context.context_id: context for request in requests for context in request.submitted.control_contexts
        }
        return cls(calls, contexts, list(by_controlnet.values()))

    def add(self, residuals: Sequence[Residuals], encoded: Encoded, requests: Sequence[RunningRequest]) -> None:
        """Add the ControlNets' residuals, one item per ControlNet call, to the rows of `encoded`, in place.

        Records each ControlNet's weights hash in the requests it acts on. A row with several controls receives their
        residuals in the order of the request's controls, because the rounding of a sum depends on the order.
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


def _acting_controls(requests: Sequence[RunningRequest], call: Call) -> list[_ActingControl]:
    """Return which controls act on which rows in the requests' current steps; guess mode skips negative rows."""
    acting = []
    for row, ref in enumerate(call.refs):
        request = requests[ref.request]
        for position, control in enumerate(request.request.controls):
            acts = control.acts_at(request.step_index, len(request.schedule.steps))
            if acts and (ref.role == "positive" or not control.guess_mode):
                control_row = ControlRow(
                    request.submitted.control_contexts[position].context_id,
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
    return _index_tensor(tuple(rows), like.device)


@lru_cache(maxsize=256)
def _index_tensor(rows: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return uploaded(torch.tensor(rows), device)
