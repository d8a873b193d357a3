"""The residuals that a ControlNet adds to the UNet's encoder half, for packed rows (Zhang et al. 2023, §3.1).

A row is one image with one of its prompts.

The computation equals `ControlNetModel.forward` of diffusers, except that the control image is embedded once per
request and that every row has its own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ControlNetModel

from atelier.families.unet.conditions import Conditions
from atelier.families.unet.halves import Encoded, encode_rows


@dataclass(frozen=True, slots=True)
class Residuals:
    """The tensors that are added to packed rows after the encoder half."""

    #: One tensor per skip connection, in the order and shapes of `Encoded.skips`.
    skips: tuple[torch.Tensor, ...]
    #: Residual of the middle block, [rows, channels, h, w].
    hidden_states: torch.Tensor
    #: Weights hash of the ControlNet that computed the residuals.
    weights_hash: str = ""

    @classmethod
    def joined(cls, parts: Sequence[Residuals]) -> Residuals:
        """Join the rows of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        skips = zip(*(part.skips for part in parts), strict=True)
        return cls(tuple(map(torch.cat, skips)), torch.cat([part.hidden_states for part in parts]))

    def select(self, rows: slice | torch.Tensor) -> Residuals:
        """Return the residuals of some of the rows."""
        skips = tuple(skip[rows] for skip in self.skips)
        return Residuals(skips, self.hidden_states[rows], self.weights_hash)

    def scaled(self, scales: torch.Tensor) -> Residuals:
        """Return the residuals times `scales` [skips + 1, rows]; the last scale is the middle block's."""
        *of_skips, of_middle = scales[..., None, None, None]
        skips = tuple(skip * scale for skip, scale in zip(self.skips, of_skips, strict=True))
        return Residuals(skips, self.hidden_states * of_middle)

    def add_to(self, encoded: Encoded, rows: slice | torch.Tensor) -> None:
        """Add the residuals, in place, to the given rows of `encoded`; no row may occur twice."""
        encoded.hidden_states[rows] += self.hidden_states
        for skip, residual in zip(encoded.skips, self.skips, strict=True):
            skip[rows] += residual


def embed_control_image(controlnet: ControlNetModel, control_image: torch.Tensor) -> torch.Tensor:
    """Compute the embedding [1, channels, h, w] of a control image [1, 3, height, width] in 0 … 1."""
    embedding: torch.Tensor = controlnet.controlnet_cond_embedding(control_image)
    return embedding


def residuals(
    controlnet: ControlNetModel,
    model_input: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Conditions,
    embedding: torch.Tensor,
) -> Residuals:
    """Compute a ControlNet's residuals, at scale 1, for `model_input` [rows, 4, h, w] at `timesteps` [rows].

    `embedding` [rows, channels, h, w] holds the control images' embeddings.
    """
    encoded = encode_rows(controlnet, controlnet.conv_in(model_input) + embedding, timesteps, conditions)
    return Residuals(
        tuple(
            convolution(skip)
            for convolution, skip in zip(controlnet.controlnet_down_blocks, encoded.skips, strict=True)
        ),
        controlnet.controlnet_mid_block(encoded.hidden_states),
    )


def scales_of_layers(controlnet_conditioning_scale: float, *, num_skips: int, guess_mode: bool) -> torch.Tensor:
    """Return a scale for each skip connection and, last, the middle block, [skips + 1].

    In guess mode the scale grows exponentially over the layers, from a tenth to the full
    `controlnet_conditioning_scale`, as in diffusers.
    """
    if guess_mode:
        return torch.logspace(-1, 0, num_skips + 1) * controlnet_conditioning_scale
    return torch.full((num_skips + 1,), controlnet_conditioning_scale)
