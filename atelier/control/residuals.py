"""What a ControlNet adds to the UNet's encoder, for packed rows (Zhang et al. 2023, §3.1).

Equal to `ControlNetModel.forward` of diffusers, except that the picture's embedding is made once per request and that
every row has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ControlNetModel

from atelier.families.sdxl.conditions import Conditions
from atelier.families.sdxl.unet import Encoded, encode


@dataclass(frozen=True, slots=True)
class Residuals:
    """What is added to rows at the end of the encoder half."""

    #: As `Encoded.skips`.
    skips: tuple[torch.Tensor, ...]
    #: [rows, channels, h, w]
    hidden_states: torch.Tensor
    #: Of the ControlNet that made them.
    weights_hash: str = ""

    @classmethod
    def joined(cls, parts: Sequence[Residuals]) -> Residuals:
        """The rows of all parts one after the other."""
        if len(parts) == 1:
            return parts[0]
        skips = zip(*(part.skips for part in parts), strict=True)
        return cls(tuple(map(torch.cat, skips)), torch.cat([part.hidden_states for part in parts]))

    def select(self, rows: slice | torch.Tensor) -> Residuals:
        skips = tuple(skip[rows] for skip in self.skips)
        return Residuals(skips, self.hidden_states[rows], self.weights_hash)

    def scaled(self, scales: torch.Tensor) -> Residuals:
        """By [skips + 1, rows, 1, 1, 1], the last of which is the middle block's."""
        skips = tuple(skip * scale for skip, scale in zip(self.skips, scales[:-1], strict=True))
        return Residuals(skips, self.hidden_states * scales[-1])

    def add_to(self, encoded: Encoded, rows: slice | torch.Tensor) -> None:
        """Add, in place, to the rows [residual rows] of `encoded`, each of which comes once."""
        encoded.hidden_states[rows] += self.hidden_states
        for skip, residual in zip(encoded.skips, self.skips, strict=True):
            skip[rows] += residual


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
    scales: torch.Tensor | None,
) -> Residuals:
    """Residuals of rows [rows, 4, h, w], with `embedding` [rows, channels, h, w] and `scales` [skips + 1, rows]; None
    is a scale of one everywhere."""
    encoded = encode(controlnet, controlnet.conv_in(model_input) + embedding, timesteps, conditions)
    made = Residuals(
        tuple(
            convolution(skip)
            for convolution, skip in zip(controlnet.controlnet_down_blocks, encoded.skips, strict=True)
        ),
        controlnet.controlnet_mid_block(encoded.hidden_states),
    )
    return made if scales is None else made.scaled(scales[..., None, None, None])


def scales_of_layers(controlnet_conditioning_scale: float, *, num_skips: int, guess_mode: bool) -> torch.Tensor:
    """[skips + 1]; in guess mode a tenth at the first layer growing to all at the last, as in diffusers."""
    if guess_mode:
        return torch.logspace(-1, 0, num_skips + 1) * controlnet_conditioning_scale
    return torch.full((num_skips + 1,), controlnet_conditioning_scale)
