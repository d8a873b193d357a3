"""A LoRA in memory: low-rank changes of layers, whatever the layout of the file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class LowRank:
    """The change of one layer's weight as the product of two factors (Hu et al. 2021, §4.1).

    A linear layer's output changes by `up @ down @ x`. A convolution's changes by a convolution with `down`, with the
    layer's own stride and padding, followed by a 1×1 convolution with `up`.
    """

    #: [rank, in] for a linear layer, [rank, in, kernel, kernel] for a convolution.
    down: torch.Tensor
    #: [out, rank]; includes the factor alpha / rank.
    up: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.down)


#: Changes of a module's layers, by the names of its submodules.
Layers = Mapping[str, LowRank]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA as its file holds it, in float32 on the CPU."""

    #: By diffusers' names of the UNet's submodules, such as `mid_block.attentions.0.transformer_blocks.0.attn1.to_q`.
    unet: Layers
    #: By transformers' names of the submodules of the first and the second text encoder.
    text_encoder: Layers
    text_encoder_2: Layers
    #: Hash of all of these.
    weights_hash: str

    @property
    def changes_texts(self) -> bool:
        """Whether the LoRA has a part for a text encoder."""
        return bool(self.text_encoder or self.text_encoder_2)

    @property
    def unet_rank(self) -> int:
        """The highest rank of the changes of the UNet's layers."""
        return max((change.rank for change in self.unet.values()), default=0)


#: A LoRA and the factor on its changes.
WeightedAdapter = tuple[Adapter, float]
