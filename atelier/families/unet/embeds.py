"""The widths of the text embeddings that a UNet or a ControlNet reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atelier.core.conditioning import TOKENS_PER_CHUNK, TextEmbeds

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

_NUM_TIME_IDS = 6


def zero_embeds(model: UNet2DConditionModel | ControlNetModel) -> TextEmbeds:
    """Return all-zero embeddings of one chunk (77 tokens), in the widths that the model reads; for warm-up."""
    width, pooled_width = _widths(model)
    return TextEmbeds(
        prompt_embeds=np.zeros((TOKENS_PER_CHUNK, width), dtype=np.float32),
        pooled_prompt_embeds=np.zeros(pooled_width, dtype=np.float32),
    )


def check_widths(model: UNet2DConditionModel | ControlNetModel, embeds: TextEmbeds) -> None:
    """Raise ValueError if the embeddings do not have the model's widths."""
    width, pooled_width = _widths(model)
    if (embeds.prompt_embeds.shape[1], *embeds.pooled_prompt_embeds.shape) != (width, pooled_width):
        raise ValueError(
            f"prompt_embeds {embeds.prompt_embeds.shape} and pooled_prompt_embeds "
            f"{embeds.pooled_prompt_embeds.shape} do not have the model's widths, {width} and {pooled_width}"
        )


def _widths(model: UNet2DConditionModel | ControlNetModel) -> tuple[int, int]:
    """Return the widths of prompt_embeds and pooled_prompt_embeds: 2048 and 1280 for SDXL, 768 and 0 for SD 1.5."""
    config = model.config
    if config.addition_embed_type is None:
        return config.cross_attention_dim, 0
    time_ids_width = _NUM_TIME_IDS * config.addition_time_embed_dim
    return config.cross_attention_dim, config.projection_class_embeddings_input_dim - time_ids_width
