"""Packs the rows of running requests into UNet calls, which stay constant until a request joins or leaves.

The first axis of every tensor is images or rows. A row is one image with one of its prompts, as the UNet reads it; an
image with guidance has one per prompt role: two, or three if it is edited by an instruction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from atelier.core.conditioning import Role
from atelier.engine.request import RunningRequest
from atelier.families.family import Conditions
from atelier.models.transfer import uploaded


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One image of a running request, with one of its prompts."""

    request: RunningRequest
    role: Role
    #: Index of the image in its request.
    image: int


@dataclass(frozen=True, slots=True)
class RowRef:
    """The request and the prompt that a row belongs to."""

    #: Index of the request in the batch.
    request: int
    role: Role


@dataclass(frozen=True, slots=True)
class Call:
    """The rows of one UNet call."""

    conditions: Conditions
    #: Index of each row's image in the batch, [rows].
    image: torch.Tensor
    #: The image to edit as the UNet reads it in each row, [rows, 4, h, w]; None for models that do not edit.
    image_latents: torch.Tensor | None
    #: Request and prompt role of each real row; the rows after these are padding.
    refs: tuple[RowRef, ...]


@dataclass(frozen=True, slots=True)
class ImageGuidance:
    """Guidance of edits towards their images."""

    #: Index of each image's row in the role `image`, [images]; that of the positive row without guidance.
    row: torch.Tensor
    #: `image_guidance_scale` of each image, [images, 1, 1, 1].
    scale: torch.Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """UNet calls, row indices and guidance settings of a batch; constant until a request joins or leaves."""

    calls: tuple[Call, ...]
    #: Indices of each image's positive and negative row among the rows of all calls, [images] each; equal without
    #: guidance.
    positive_row: torch.Tensor
    negative_row: torch.Tensor
    #: Guidance scale of each image, [images, 1, 1, 1].
    guidance_scale: torch.Tensor
    #: `guidance_rescale` of each image that is rescaled, by the index of the image in the batch.
    guidance_rescale: dict[int, float]
    #: Fixed number of rows in every UNet and ControlNet call; None if it is not fixed.
    width: int | None
    #: Guidance towards the images to edit; None for models that do not edit.
    image_guidance: ImageGuidance | None = None


def pack(
    requests: Sequence[RunningRequest],
    rows: Sequence[Row],
    read: Callable[[slice], Conditions],
    parts: Sequence[slice],
    *,
    width: int | None,
) -> Packed:
    """Pack `rows`, which are all rows of the requests in any order, into UNet calls.

    `parts` are the positions of each call's rows; those behind the last row are copies of it. `read` returns the
    conditions of some positions. `width` is the number of rows in every call, if it is fixed.
    """
    device = requests[0].latents.device
    passes = [request.request.pass_ for request in requests for _ in range(request.num_images)]
    row_of = {(id(row.request), row.image, row.role): index for index, row in enumerate(rows)}
    images = [(id(request), image) for request in requests for image in range(request.num_images)]
    positive_row = [row_of[*image, "positive"] for image in images]
    negative_row = [row_of.get((*image, "negative"), row) for image, row in zip(images, positive_row, strict=True)]
    image_row = [row_of.get((*image, "image"), row) for image, row in zip(images, positive_row, strict=True)]
    image_scales = [of.image_guidance_scale for of in passes if of.image_guidance_scale is not None]
    return Packed(
        calls=_calls(requests, rows, read, parts),
        positive_row=uploaded(torch.tensor(positive_row), device),
        negative_row=uploaded(torch.tensor(negative_row), device),
        guidance_scale=uploaded(torch.tensor([of.guidance_scale for of in passes]), device).view(-1, 1, 1, 1),
        guidance_rescale={
            image: of.guidance_rescale for image, of in enumerate(passes) if of.is_guided and of.guidance_rescale > 0
        },
        width=width,
        image_guidance=_image_guidance(image_row, image_scales, device) if image_scales else None,
    )


def _image_guidance(image_row: list[int], scales: list[float], device: torch.device) -> ImageGuidance:
    return ImageGuidance(
        uploaded(torch.tensor(image_row), device), uploaded(torch.tensor(scales), device).view(-1, 1, 1, 1)
    )


def _calls(
    requests: Sequence[RunningRequest],
    rows: Sequence[Row],
    read: Callable[[slice], Conditions],
    parts: Sequence[slice],
) -> tuple[Call, ...]:
    device = requests[0].latents.device
    index_of = {id(request): index for index, request in enumerate(requests)}
    num_images = [request.num_images for request in requests]
    first_image = dict(zip(index_of, itertools.accumulate(num_images, initial=0), strict=False))
    refs = [RowRef(index_of[id(row.request)], row.role) for row in rows]
    images = [first_image[id(row.request)] + row.image for row in rows]
    images += images[-1:] * (parts[-1].stop - len(rows))
    image_latents = _image_latents(rows, len(images))
    return tuple(
        Call(
            conditions=read(part),
            image=uploaded(torch.tensor(images[part]), device),
            image_latents=None if image_latents is None else image_latents[part],
            refs=tuple(refs[part]),
        )
        for part in parts
    )


def _image_latents(rows: Sequence[Row], num_rows: int) -> torch.Tensor | None:
    """Return the image to edit of each row, and copies of the last one for padding; None for other models."""
    images = [image for row in rows if (image := row.request.image_latents_of(row.role)) is not None]
    return torch.cat([*images, *images[-1:] * (num_rows - len(rows))]) if images else None
