"""The UNet's forward pass in two halves, split after the middle block.

Together they equal `UNet2DConditionModel.forward` of diffusers bit for bit (tests/unit/families/test_halves.py). The
residuals of ControlNets are added between them. A ControlNet is a copy of the first half, so both run `encode_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from atelier.core.conditioning import TOKENS_PER_CHUNK
from atelier.families.unet.adapters.rows import applied
from atelier.families.unet.conditions import Conditions
from atelier.families.unet.time_embedding import time_embedding

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel


@dataclass(frozen=True, slots=True)
class Encoded:
    """Activations of packed rows (images with one prompt each) after the middle block of a UNet or a ControlNet."""

    #: Output of the middle block, [rows, channels, h, w].
    hidden_states: torch.Tensor
    #: Embedding of the timestep and of what the model adds to it, [rows, width].
    emb: torch.Tensor
    #: Outputs of the first convolution and of every layer of the down blocks, in their order; the decoder half reads
    #: them from the end.
    skips: tuple[torch.Tensor, ...]


def block_names(unet: UNet2DConditionModel) -> list[str]:
    """Return the names of the submodules that hold all weights, in the order in which the halves run them.

    In SDXL the largest one, a transformer of ten layers, has 14 % of the weights.
    """
    down = [(f"down_blocks.{index}", block) for index, block in enumerate(unet.down_blocks)]
    up = [(f"up_blocks.{index}", block) for index, block in enumerate(unet.up_blocks)]
    inner = [
        name for of_block, block in (*down, ("mid_block", unet.mid_block), *up) for name in _inner(of_block, block)
    ]
    embeddings = [name for name, _ in unet.named_children() if name in ("time_embedding", "add_embedding")]
    return ["conv_in", *embeddings, *inner, "conv_norm_out", "conv_out"]


def _inner(name: str, block: torch.nn.Module) -> Iterator[str]:
    """Yield residual blocks and transformers in turn (the middle block ends with the former), then the sampler."""
    children = {kind: len(list(list_.children())) for kind, list_ in block.named_children()}
    for index in range(children["resnets"]):
        yield f"{name}.resnets.{index}"
        if index < children.get("attentions", 0):
            yield f"{name}.attentions.{index}"
    for kind in ("downsamplers", "upsamplers"):
        yield from (f"{name}.{kind}.{index}" for index in range(children.get(kind, 0)))


def encode_half(
    unet: UNet2DConditionModel, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
) -> Encoded:
    """Run the UNet to the end of its middle block, on `model_input` [rows, 4, h, w] at `timesteps` [rows]."""
    with applied(conditions.adapters):
        return encode_rows(unet, unet.conv_in(model_input), timesteps, conditions)


def encode_rows(
    model: UNet2DConditionModel | ControlNetModel,
    hidden_states: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: Conditions,
) -> Encoded:
    """Run the down blocks and the middle block of a UNet or a ControlNet.

    `hidden_states` [rows, channels, h, w] are the output of the first convolution; `timesteps` has the shape [rows].
    """
    emb = time_embedding(model, timesteps, conditions)
    skips = [hidden_states]
    for block in model.down_blocks:
        attention = _attention_arguments(conditions) if getattr(block, "has_cross_attention", False) else {}
        hidden_states, outputs = block(hidden_states=hidden_states, temb=emb, **attention)
        skips += outputs
    hidden_states = model.mid_block(hidden_states, emb, **_attention_arguments(conditions))
    return Encoded(hidden_states, emb, tuple(skips))


def decode_half(unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
    """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
    with applied(conditions.adapters):
        return _decode(unet, encoded, conditions)


def _decode(unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
    hidden_states, skips = encoded.hidden_states, list(encoded.skips)
    for block in unet.up_blocks:
        num_layers = len(block.resnets)
        skips, block_skips = skips[:-num_layers], skips[-num_layers:]
        attention = _attention_arguments(conditions) if getattr(block, "has_cross_attention", False) else {}
        hidden_states = block(
            hidden_states=hidden_states,
            temb=encoded.emb,
            res_hidden_states_tuple=tuple(block_skips),
            # Upsample to the size before downsampling, also if a side is not a multiple of the downsampling factor.
            upsample_size=skips[-1].shape[2:] if skips else None,
            **attention,
        )
    noise_pred: torch.Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden_states)))
    return noise_pred


def _attention_arguments(conditions: Conditions) -> dict[str, object]:
    """Return the arguments of attention layers; without a bias GPUs have faster kernels.

    No token of a single chunk is padding. On the CPU there is always a bias, because programs are traced with one.
    """
    bias = conditions.prompt_bias
    is_needed = conditions.num_tokens > TOKENS_PER_CHUNK or bias.device.type == "cpu"
    return {
        "cross_attention_kwargs": {"prompt": conditions.prompt},
        "encoder_attention_mask": bias if is_needed else None,
    }
