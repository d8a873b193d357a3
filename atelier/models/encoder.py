"""The encoder that a UNet and its ControlNets share: time embedding, down blocks and middle block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D

from atelier.models.conditions import Conditions


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
