"""The embedding of timesteps, which SDXL adds the image's size and crop and the pooled prompt to.

A model's `addition_embed_type` says what is added: "text_time" for SDXL, None for Stable Diffusion 1.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from atelier.families.unet.conditions import Conditions

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel


def time_embedding(
    model: UNet2DConditionModel | ControlNetModel, timesteps: torch.Tensor, conditions: Conditions
) -> torch.Tensor:
    """Embed `timesteps` [rows] and what the model adds to them, as [rows, width].

    Source of what SDXL adds: Podell et al. 2023, §2.2.
    """
    pooled = conditions.pooled_prompt_embeds
    emb: torch.Tensor = model.time_embedding(model.time_proj(timesteps).to(pooled.dtype))
    if model.config.addition_embed_type is None:
        return emb
    size_and_crop = model.add_time_proj(conditions.add_time_ids.flatten()).view(pooled.shape[0], -1)
    added: torch.Tensor = model.add_embedding(torch.cat([pooled, size_and_crop.to(pooled.dtype)], dim=-1))
    return emb + added
