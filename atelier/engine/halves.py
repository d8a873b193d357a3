"""The UNet's forward pass in two halves, to the end of the middle block and from there.

Equal to `unet.forward` of diffusers bit for bit (tests/unit/engine/test_halves.py); between the two the residuals of
ControlNets are added.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnUpBlock2D

from atelier.models.conditions import Conditions
from atelier.models.encoder import Encoded, attention_arguments, encode


def encode_half(
    unet: UNet2DConditionModel, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
) -> Encoded:
    """`model_input` [rows, 4, h, w] at `timesteps` [rows]."""
    return encode(unet, unet.conv_in(model_input), timesteps, conditions)


def decode_half(unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
    """What the UNet predicts, [rows, 4, h, w]."""
    hidden_states, skips = encoded.hidden_states, list(encoded.skips)
    for block in unet.up_blocks:
        taken = skips[-len(block.resnets) :]
        del skips[-len(block.resnets) :]
        attention = attention_arguments(conditions) if isinstance(block, CrossAttnUpBlock2D) else {}
        hidden_states = block(
            hidden_states=hidden_states,
            temb=encoded.emb,
            res_hidden_states_tuple=tuple(taken),
            # Sides that are no multiple of the UNet's factor come back as they were.
            upsample_size=skips[-1].shape[2:] if skips else None,
            **attention,
        )
    predicted: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden_states)))
    return predicted
