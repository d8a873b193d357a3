"""What a ControlNet adds to the UNet's encoder, for packed rows (Zhang et al. 2023, §3.1).

Equal to `ControlNetModel.forward` of diffusers, except that the picture's embedding is made once per request and that
every row has a scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ControlNetModel

from atelier.models.conditions import Conditions
from atelier.models.encoder import Encoded, encode


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is added to rows at the end of the encoder half."""

    #: As `Encoded.skips`.
    skips: tuple[torch.Tensor, ...]
    #: [rows, channels, h, w]
    hidden_states: torch.Tensor

    def added_to(self, encoded: Encoded, rows: torch.Tensor) -> Encoded:
        """`encoded` with these residuals on its rows of the index [residual rows]; a row may come several times."""
        return Encoded(
            encoded.hidden_states.index_add(0, rows, self.hidden_states),
            encoded.emb,
            tuple(
                skip.index_add(0, rows, residual) for skip, residual in zip(encoded.skips, self.skips, strict=True)
            ),
        )


def embed_control_image(controlnet: ControlNetModel, control_image: torch.Tensor) -> torch.Tensor:
    """A control image [1, 3, height, width] in 0 … 1 as the ControlNet's first convolution meets it."""
    embedding: torch.Tensor = controlnet.controlnet_cond_embedding(control_image)
    return embedding


def residuals(
    controlnet: ControlNetModel,
    model_input: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Conditions,
    embedding: torch.Tensor,
    scales: torch.Tensor,
) -> Residuals:
    """Residuals of rows [rows, 4, h, w], with `embedding` [rows, channels, h, w] and `scales` [skips + 1, rows]."""
    encoded = encode(controlnet, controlnet.conv_in(model_input) + embedding, timesteps, conditions)
    scales = scales[..., None, None, None]
    skips = zip(controlnet.controlnet_down_blocks, encoded.skips, scales[:-1], strict=True)
    return Residuals(
        tuple(convolution(skip) * scale for convolution, skip, scale in skips),
        controlnet.controlnet_mid_block(encoded.hidden_states) * scales[-1],
    )


def scales_of_layers(conditioning_scale: float, *, num_skips: int, guess_mode: bool) -> torch.Tensor:
    """[skips + 1]; in guess mode a tenth at the first layer growing to all at the last, as in diffusers."""
    if guess_mode:
        return torch.logspace(-1, 0, num_skips + 1) * conditioning_scale
    return torch.full((num_skips + 1,), conditioning_scale)
