"""What steers packed rows besides their latents; constant over the steps."""

from __future__ import annotations

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
