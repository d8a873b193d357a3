"""What steers packed rows besides their latents; constant over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

#: Added to the attention score of what a row must not see; its softmax is exactly zero (diffusers' value).
MASKED = -10_000.0


@dataclass(frozen=True, slots=True)
class KeysValues:
    """What every cross-attention layer of a model reads of prompts, in the order of the model's modules."""

    #: Per layer [prompts or rows, 77 · chunks, width of the layer]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    def select(self, rows: torch.Tensor) -> KeysValues:
        return KeysValues(tuple(keys[rows] for keys in self.keys), tuple(values[rows] for values in self.values))


@dataclass(frozen=True, slots=True)
class PromptConditions:
    """One prompt as a model reads it; all images of a request share it."""

    #: Of one prompt: [1, 77 · chunks, width of the layer]
    keys_values: KeysValues
    num_tokens: int
    #: [1280]
    pooled_prompt_embeds: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    prompt: KeysValues
    #: [rows, 1, 77 · chunks]; 0 where a row has a token of its own, `MASKED` elsewhere
    prompt_bias: torch.Tensor
    #: [rows, 1280]
    pooled_prompt_embeds: torch.Tensor
    #: [rows, 6]
    add_time_ids: torch.Tensor

    def select(self, rows: torch.Tensor) -> Conditions:
        return Conditions(
            prompt=self.prompt.select(rows),
            prompt_bias=self.prompt_bias[rows],
            pooled_prompt_embeds=self.pooled_prompt_embeds[rows],
            add_time_ids=self.add_time_ids[rows],
        )


def stack(
    prompts: Sequence[PromptConditions], sizes: Sequence[tuple[int, int]], *, num_tokens: int | None = None
) -> Conditions:
    """Conditions with a row per prompt and the (height, width) of its picture.

    Shorter prompts are filled up to the longest, or to `num_tokens`, and masked.
    """
    lengths = torch.tensor([prompt.num_tokens for prompt in prompts])
    num_tokens = num_tokens or int(lengths.max())
    positions = torch.arange(num_tokens)
    pooled = torch.stack([prompt.pooled_prompt_embeds for prompt in prompts])
    bias = torch.where(positions < lengths[:, None], 0.0, MASKED).to(pooled)
    return Conditions(
        prompt=KeysValues(
            _padded([prompt.keys_values.keys for prompt in prompts], num_tokens),
            _padded([prompt.keys_values.values for prompt in prompts], num_tokens),
        ),
        prompt_bias=bias[:, None],
        pooled_prompt_embeds=pooled,
        add_time_ids=torch.tensor([_time_ids(size) for size in sizes]).to(pooled),
    )


def _padded(of_prompts: Sequence[tuple[torch.Tensor, ...]], num_tokens: int) -> tuple[torch.Tensor, ...]:
    """Per layer one tensor [prompts, num_tokens, width], with zeros at the ends of the shorter."""
    return tuple(
        torch.cat([torch.nn.functional.pad(prompt, (0, 0, 0, num_tokens - prompt.shape[1])) for prompt in layer])
        for layer in zip(*of_prompts, strict=True)
    )


def _time_ids(size: tuple[int, int]) -> list[float]:
    """(orig_h, orig_w, crop_top, crop_left, target_h, target_w) in pixels (Podell et al. 2023, §2.2)."""
    height, width = map(float, size)
    return [height, width, 0.0, 0.0, height, width]
