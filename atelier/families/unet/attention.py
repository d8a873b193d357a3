"""Attention of packed rows (images with one prompt each): each row attends to its own prompt.

The keys and values of a prompt are equal in every step, so they are computed once, at admission: this saves 7 % of
a UNet call of the tiny model in `zoo/` (benchmarks/engine.py). Only `RowAttention`, the forward pass of every self-
and cross-attention layer, applies a row's keys, values and bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from atelier.core.conditioning import TextEmbeds
from atelier.families.unet.adapters.adapter import Layers
from atelier.families.unet.adapters.rows import (
    RequestLayers,
    applied,
    combined,
    in_faster_form,
    install_row_changes,
    stacked,
)
from atelier.families.unet.conditions import KeysValues, PromptConditions
from atelier.families.unet.embeds import check_widths
from atelier.models.loading import Placement
from atelier.models.streaming import at_hand
from atelier.models.transfer import uploaded

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


#: Ends of the names of the layers that compute the keys and values of a prompt.
_READ_PROMPT = ("attn2.to_k", "attn2.to_v")


@dataclass(frozen=True, slots=True)
class RequestAdapters:
    """What the LoRAs of a request change in the UNet."""

    #: In the layers that compute the keys and values of the prompts.
    of_prompt: Layers = field(default_factory=dict)
    #: In all other layers.
    of_rows: RequestLayers = field(default_factory=dict)


NO_ADAPTERS = RequestAdapters()


class RowAttention:
    """The forward pass of one attention layer, for packed rows with precomputed prompt keys and values.

    It replaces `Attention.forward` of diffusers, which inspects the signature of its processor in every call.
    """

    def __init__(self, attn: Attention, cross_index: int | None) -> None:
        """`cross_index` is the layer's index among the cross-attention layers; None for self-attention."""
        self._attn = attn
        self._cross_index = cross_index

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002 diffusers passes it
        attention_mask: torch.Tensor | None = None,
        *,
        prompt: KeysValues,
    ) -> torch.Tensor:
        """Attend from `hidden_states` [rows, tokens, width] to each row's prompt, or to themselves in self-attention.

        `attention_mask` is a bias [rows, 1, 77 · chunks]; None adds no bias.
        """
        attn = self._attn
        query: torch.Tensor = attn.to_q(hidden_states)
        if self._cross_index is None:
            key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        else:
            key, value = prompt.keys[self._cross_index], prompt.values[self._cross_index]
        attended = torch.nn.functional.scaled_dot_product_attention(
            _split_heads(query, attn.heads),
            _split_heads(key, attn.heads),
            _split_heads(value, attn.heads),
            attn_mask=None if attention_mask is None else attention_mask[:, None],
        )
        projected: torch.Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return projected


def install(model: UNet2DConditionModel | ControlNetModel) -> None:
    """Give every attention layer `RowAttention`.

    Raises ValueError if an attention layer is not the plain one.
    """
    for name, layer in _layers(model):
        extras = (layer.group_norm, layer.spatial_norm, layer.norm_q, layer.norm_k, layer.norm_cross)
        if any(extra is not None for extra in extras) or layer.residual_connection:
            raise ValueError(f"{name} is not the plain attention of Stable Diffusion")
        layer.forward = RowAttention(layer, None)
    for index, layer in enumerate(_cross_attention(model)):
        layer.forward = RowAttention(layer, index)


def keys_values(model: UNet2DConditionModel | ControlNetModel, prompt_embeds: torch.Tensor) -> KeysValues:
    """Compute keys and values of `prompt_embeds` [prompts, 77 · chunks, 2048] for every cross-attention layer."""
    keys, values = [], []
    for layer in _cross_attention(model):
        with at_hand(layer):
            keys.append(layer.to_k(prompt_embeds))
            values.append(layer.to_v(prompt_embeds))
    return KeysValues(tuple(keys), tuple(values))


def prompt_conditions(
    model: UNet2DConditionModel | ControlNetModel,
    embeds: TextEmbeds,
    placement: Placement,
    adapters: RequestAdapters = NO_ADAPTERS,
) -> PromptConditions:
    """Compute the conditions of a prompt (keys, values, pooled output) for all steps of a request.

    `adapters` are what the request's LoRAs change. Raises ValueError if the embeddings do not have the widths that
    the model reads.
    """
    check_widths(model, embeds)
    prompt_embeds, pooled = (
        uploaded(torch.tensor(floats, dtype=placement.dtype), placement.device)
        for floats in (embeds.prompt_embeds, embeds.pooled_prompt_embeds)
    )
    with applied(stacked([adapters.of_prompt])):
        computed = keys_values(model, prompt_embeds[None])
    return PromptConditions(computed, len(prompt_embeds), pooled, adapters.of_rows)


def request_adapters(model: UNet2DConditionModel, adapters: Sequence[tuple[Layers, float]]) -> RequestAdapters:
    """Combine the LoRAs of a request, each with its weight. The first ones let the model's layers take changes."""
    layers = combined(adapters)
    if layers:
        install_row_changes(model)
    of_prompt = {name: change for name, change in layers.items() if name.endswith(_READ_PROMPT)}
    of_rows = {name: change for name, change in layers.items() if name not in of_prompt}
    return RequestAdapters(of_prompt, in_faster_form(model, of_rows))


def _layers(model: UNet2DConditionModel | ControlNetModel) -> list[tuple[str, Attention]]:
    from diffusers.models.attention_processor import Attention

    return [(name, module) for name, module in model.named_modules() if isinstance(module, Attention)]


def _cross_attention(model: UNet2DConditionModel | ControlNetModel) -> Iterator[Attention]:
    """Yield the layers that read the prompt, by their indices; much faster than a search of all modules."""
    for block in (*model.down_blocks, model.mid_block, *getattr(model, "up_blocks", ())):
        for transformer in getattr(block, "attentions", ()):
            for layer in transformer.transformer_blocks:
                yield layer.attn2


def _split_heads(tokens: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reshape [rows, tokens, width] to [rows, heads, tokens, width / heads]."""
    rows, num_tokens, width = tokens.shape
    return tokens.view(rows, num_tokens, num_heads, width // num_heads).transpose(1, 2)
