"""The calls by which a Denoiser requests residuals from ControlNets, and the contexts that they refer to.

A `ControlContext` holds a control image and the prompts, which stay the same over the steps of a request. A replica
receives it once; the call of each step names it by its id, a hash of its content, so that it can be sent again to any
replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

import torch

from atelier.core.conditioning import Role, TextEmbeds
from atelier.core.control import ControlImage

#: SHA-256 of a context's content, in hexadecimal.
ContextId = NewType("ContextId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlContext:
    """One control of a request: the control image and the prompts that a ControlNet reads with it."""

    context_id: ContextId
    #: The ControlNet's id in the catalogue.
    controlnet: str
    control_image: ControlImage
    embeds: Mapping[Role, TextEmbeds]

    @classmethod
    def of(cls, controlnet: str, control_image: ControlImage, embeds: Mapping[Role, TextEmbeds]) -> ControlContext:
        """Create a context whose id is a hash of its content."""
        digest = hashlib.sha256(f"{controlnet} {control_image.shape} ".encode())
        digest.update(control_image.tobytes())
        for role, text_embeds in sorted(embeds.items()):
            digest.update(role.encode())
            digest.update(text_embeds.prompt_embeds.tobytes())
            digest.update(text_embeds.pooled_prompt_embeds.tobytes())
        return cls(
            context_id=ContextId(digest.hexdigest()),
            controlnet=controlnet,
            control_image=control_image,
            embeds=dict(embeds),
        )


#: Contexts by their ids.
Contexts = Mapping[ContextId, ControlContext]


@dataclass(frozen=True, slots=True)
class ControlRow:
    """One row (an image with one of its prompts) of a UNet call that a ControlNet acts on."""

    context_id: ContextId
    #: Which of the context's prompts the row reads.
    role: Role
    controlnet_conditioning_scale: float
    guess_mode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlCall:
    """The rows of one step that one ControlNet acts on."""

    #: The ControlNet's id in the catalogue.
    controlnet: str
    rows: tuple[ControlRow, ...]
    #: The UNet's input, [rows, 4, h, w].
    model_input: torch.Tensor
    #: [rows]
    timesteps: torch.Tensor
    #: Number of tokens that every prompt is padded to; equal to that of the UNet's call.
    num_tokens: int
    #: Number of rows of every pass of the model. Passes are padded with copies, so that bits do not depend on the
    #: number of real rows. None runs all rows in one pass.
    width: int | None


@dataclass(frozen=True, slots=True)
class UnknownContexts:
    """The response to a call whose contexts a replica does not have; the call is repeated with them."""

    context_ids: tuple[ContextId, ...]
