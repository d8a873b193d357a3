"""What a Denoiser asks of ControlNets.

A ControlNet is told once what stays the same over the steps of a request, a `ControlContext`; the calls of the steps
name it by its id, a hash of its content, so that any replica can be told again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

import torch

from atelier.core.conditioning import TextEmbeds
from atelier.core.control import ControlImage

ContextId = NewType("ContextId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlContext:
    context_id: ContextId
    controlnet: str
    control_image: ControlImage
    texts: tuple[TextEmbeds, ...]

    @classmethod
    def of(cls, controlnet: str, control_image: ControlImage, texts: Sequence[TextEmbeds]) -> ControlContext:
        digest = hashlib.sha256(f"{controlnet} {control_image.shape} ".encode())
        digest.update(control_image.tobytes())
        for text in texts:
            digest.update(text.prompt_embeds.tobytes())
            digest.update(text.pooled_prompt_embeds.tobytes())
        return cls(
            context_id=ContextId(digest.hexdigest()),
            controlnet=controlnet,
            control_image=control_image,
            texts=tuple(texts),
        )


Contexts = Mapping[ContextId, ControlContext]


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One row of the UNet that a ControlNet acts on."""

    context_id: ContextId
    #: Index of its text in the context.
    text: int
    controlnet_conditioning_scale: float
    guess_mode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCall:
    """The rows of one step that one ControlNet acts on."""

    controlnet: str
    rows: tuple[ControlRow, ...]
    #: [rows, 4, h, w], as the UNet gets them
    model_input: torch.Tensor
    #: [rows]
    timesteps: torch.Tensor
    #: Tokens that every prompt is filled up to, as the UNet's call has them.
    num_tokens: int
    #: Rows of every pass of the model, filled up with copies, so that bits do not depend on how many there are; None
    #: for one pass of all rows.
    width: int | None


@dataclass(frozen=True, slots=True)
class UnknownContexts:
    """The answer where contexts have to be told first."""

    context_ids: tuple[ContextId, ...]
