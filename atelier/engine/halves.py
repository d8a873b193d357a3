"""The UNet's forward pass in two halves, to the end of the middle block and from there.

Equal to `unet.forward` of diffusers bit for bit (tests/unit/engine/test_halves.py); what a ControlNet adds will
meet the rows between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D

from atelier.engine.attention import KeysValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What steers packed rows besides their latents; constant over the steps."""

    prompt: KeysValues
    #: [rows, 1, 77 · chunks]; 0 where a row has a token of its own, `attention.MASKED` elsewhere
    prompt_bias: torch.Tensor
    #: [rows, 1280]
    pooled_prompt_embeds: torch.Tensor
    #: [rows, 6]
    add_time_ids: torch.Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows between the halves."""

    #: [rows, channels, h, w] of the middle block
    hidden_states: torch.Tensor
    #: [rows, time embedding]
    emb: torch.Tensor
    #: What the decoder's blocks take from the encoder's, in the order it was made.
    skips: tuple[torch.Tensor, ...]


def encode_half(
    unet: UNet2DConditionModel, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
) -> Encoded:
    """`model_input` [rows, 4, h, w] at `timesteps` [rows], through the down blocks and the middle block."""
    emb = unet.time_embedding(unet.get_time_embed(sample=model_input, timestep=timesteps))
    emb = emb + unet.get_aug_embed(
        emb=emb,
        encoder_hidden_states=None,
        added_cond_kwargs={
            "text_embeds": conditions.pooled_prompt_embeds,
            "time_ids": conditions.add_time_ids,
        },
    )
    hidden_states = unet.conv_in(model_input)
    skips = [hidden_states]
    for block in unet.down_blocks:
        attention = _attention(conditions) if isinstance(block, CrossAttnDownBlock2D) else {}
        hidden_states, of_block = block(hidden_states=hidden_states, temb=emb, **attention)
        skips += of_block
    hidden_states = unet.mid_block(hidden_states, emb, **_attention(conditions))
    return Encoded(hidden_states, emb, tuple(skips))


def decode_half(unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
    """What the UNet predicts, [rows, 4, h, w]."""
    hidden_states, skips = encoded.hidden_states, list(encoded.skips)
    for block in unet.up_blocks:
        taken = skips[-len(block.resnets) :]
        del skips[-len(block.resnets) :]
        attention = _attention(conditions) if isinstance(block, CrossAttnUpBlock2D) else {}
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


def _attention(conditions: Conditions) -> dict[str, object]:
    return {
        "cross_attention_kwargs": {"prompt": conditions.prompt},
        "encoder_attention_mask": conditions.prompt_bias,
    }
