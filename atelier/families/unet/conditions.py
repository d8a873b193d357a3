"""The conditions of packed rows: everything besides latents and timesteps that the UNet reads.

A row is one image with one of its prompts. The conditions are constant over all steps of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from atelier.core.geometry import Size
from atelier.families.unet.adapters.rows import RequestLayers, RowAdapters
from atelier.models.transfer import uploaded

#: Bias added to the attention scores of padding tokens; their softmax is exactly zero (diffusers' value).
MASKED = -10_000.0


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values of prompts for every cross-attention layer, in the order of the model's modules."""

    #: One tensor per layer, [prompts or rows, 77 · chunks, width of the layer].
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class PromptConditions:
    """One prompt as a model reads it; all images of a request share it."""

    #: Keys and values of this prompt alone, [1, 77 · chunks, width of the layer].
    keys_values: KeysValues
    #: Length of the prompt including padding to whole chunks, 77 · chunks.
    num_tokens: int
    #: Pooled output of SDXL's second text encoder, [1280]; [0] for a model that reads none.
    pooled_prompt_embeds: torch.Tensor
    #: Changes of the UNet's layers by the request's LoRAs, but for those that `keys_values` contain.
    adapters: RequestLayers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Conditions:
    """Everything besides latents and timesteps that a UNet reads for its rows (images with one prompt each)."""

    prompt: KeysValues
    #: Attention bias, [rows, 1, 77 · chunks]: 0 for a row's own tokens, `MASKED` for padding.
    prompt_bias: torch.Tensor
    #: Pooled output of SDXL's second text encoder, [rows, 1280]; [rows, 0] for a model that reads none.
    pooled_prompt_embeds: torch.Tensor
    #: Size and crop of each row's image, [rows, 6], in pixels; only SDXL reads them.
    add_time_ids: torch.Tensor
    #: Changes of the model's layers by the rows' LoRAs.
    adapters: RowAdapters = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that every prompt is padded to."""
        return self.prompt_bias.shape[-1]


def stack(prompts: Sequence[PromptConditions], sizes: Sequence[Size], *, num_tokens: int | None = None) -> Conditions:
    """Stack prompts into conditions with one row per prompt; row i belongs to an image of `sizes[i]`.

    Shorter prompts are padded to the longest one, or to `num_tokens`, and their padding is masked.
    """
    lengths = torch.tensor([prompt.num_tokens for prompt in prompts])
    num_tokens = num_tokens or int(lengths.max())
    positions = torch.arange(num_tokens)
    pooled = torch.stack([prompt.pooled_prompt_embeds for prompt in prompts])
    bias = uploaded(torch.where(positions < lengths[:, None], 0.0, MASKED).to(pooled.dtype), pooled.device)
    return Conditions(
        prompt=KeysValues(
            _padded([prompt.keys_values.keys for prompt in prompts], num_tokens),
            _padded([prompt.keys_values.values for prompt in prompts], num_tokens),
        ),
        prompt_bias=bias[:, None],
        pooled_prompt_embeds=pooled,
        add_time_ids=uploaded(
            torch.tensor([add_time_ids(size) for size in sizes], dtype=pooled.dtype), pooled.device
        ),
    )


def _padded(prompts: Sequence[tuple[torch.Tensor, ...]], num_tokens: int) -> tuple[torch.Tensor, ...]:
    """Return one tensor [prompts, num_tokens, width] per layer; shorter prompts end in zeros."""
    return tuple(
        torch.cat([torch.nn.functional.pad(prompt, (0, 0, 0, num_tokens - prompt.shape[1])) for prompt in layer])
        for layer in zip(*prompts, strict=True)
    )


def add_time_ids(size: Size) -> list[float]:
    """Return (orig_h, orig_w, crop_top, crop_left, target_h, target_w) in pixels (Podell et al. 2023, §2.2)."""
    height, width = float(size.height), float(size.width)
    return [height, width, 0.0, 0.0, height, width]
