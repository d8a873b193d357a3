"""The UNet's forward pass in two halves, to the end of the middle block and from there.

Equal to `unet.forward` of diffusers bit for bit (tests/unit/families/test_unet.py); between the two the residuals of
ControlNets are added, whose encoders are run by the same `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D

from atelier.families.sdxl.conditions import Conditions


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows at the end of the middle block."""

    #: [rows, channels, h, w]
    hidden_states: torch.Tensor
    #: [rows, time embedding]
    emb: torch.Tensor
    #: What was passed on the way, in its order; the decoder takes it from the end.
    skips: tuple[torch.Tensor, ...]


def encode(
    model: UNet2DConditionModel | ControlNetModel,
    hidden_states: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Conditions,
) -> Encoded:
    """`hidden_states` [rows, channels, h, w] as they come from the first convolution, at `timesteps` [rows]."""
    emb = _time_embedding(model, timesteps, conditions)
    skips = [hidden_states]
    for block in model.down_blocks:
        attention = attention_arguments(conditions) if isinstance(block, CrossAttnDownBlock2D) else {}
        hidden_states, of_block = block(hidden_states=hidden_states, temb=emb, **attention)
        skips += of_block
    hidden_states = model.mid_block(hidden_states, emb, **attention_arguments(conditions))
    return Encoded(hidden_states, emb, tuple(skips))


def attention_arguments(conditions: Conditions) -> dict[str, object]:
    return {
        "cross_attention_kwargs": {"prompt": conditions.prompt},
        "encoder_attention_mask": conditions.prompt_bias,
    }


def _time_embedding(
    model: UNet2DConditionModel | ControlNetModel, timesteps: torch.Tensor, conditions: Conditions
) -> torch.Tensor:
    """Of the step, and of size and crop with the pooled prompt (Podell et al. 2023, §2.2)."""
    pooled = conditions.pooled_prompt_embeds
    emb: torch.Tensor = model.time_embedding(model.time_proj(timesteps).to(pooled.dtype))
    size_and_crop = model.add_time_proj(conditions.add_time_ids.flatten()).view(len(pooled), -1)
    added: torch.Tensor = model.add_embedding(torch.cat([pooled, size_and_crop.to(pooled.dtype)], dim=-1))
    return emb + added


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
