"""A ControlNet as a program of TorchScript, which runs on the CPU without Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from diffusers import ControlNetModel

from atelier.control.residuals import Residuals, embed_control_image, residuals
from atelier.families.unet.conditions import Conditions
from atelier.families.unet.tensors import (
    EXAMPLE_SIDE,
    Tensors,
    conditions_of,
    example_conditions,
    tensors_of,
)
from atelier.models.loading import Placement
from atelier.models.programs import TRACING, run, traced

#: `atelier.control.residuals.residuals` of one ControlNet.
ComputeResiduals = Callable[[torch.Tensor, torch.Tensor, Conditions, torch.Tensor], Residuals]


def trace(controlnet: ControlNetModel, placement: Placement) -> ComputeResiduals:
    """Trace an installed ControlNet. The program gives the bits of `residuals`, for any rows, size and prompts."""
    program = TRACING.submit(_traced, controlnet, placement).result()
    return partial(_run, program)


def _run(
    program: torch.jit.ScriptModule,
    model_input: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Conditions,
    embedding: torch.Tensor,
) -> Residuals:
    return Residuals(*run(program, model_input, timesteps, tensors_of(conditions), embedding))


class _Residuals(torch.nn.Module):
    def __init__(self, controlnet: ControlNetModel) -> None:
        super().__init__()
        self._controlnet = controlnet

    def forward(
        self, model_input: torch.Tensor, timesteps: torch.Tensor, tensors: Tensors, embedding: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        computed = residuals(self._controlnet, model_input, timesteps, conditions_of(tensors, ()), embedding)
        return computed.skips, computed.hidden_states


@torch.inference_mode()
def _traced(controlnet: ControlNetModel, placement: Placement) -> torch.jit.ScriptModule:
    conditions, dtype = example_conditions(controlnet, placement), placement.dtype
    num_rows = conditions.prompt_bias.shape[0]
    image = torch.zeros(num_rows, 3, EXAMPLE_SIDE * 8, EXAMPLE_SIDE * 8, dtype=dtype)
    model_input = torch.zeros(num_rows, controlnet.config.in_channels, EXAMPLE_SIDE, EXAMPLE_SIDE, dtype=dtype)
    embedding = embed_control_image(controlnet, image)
    inputs = (model_input, torch.ones(num_rows), tensors_of(conditions), embedding)
    return traced(_Residuals(controlnet), inputs)
