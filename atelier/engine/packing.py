"""Packs requests that share UNet calls into tensors that stay constant from step to step.

The first axis of every tensor is images or rows. A row is one image with one of its prompts, as the UNet reads it; an
image with guidance has two rows, one per prompt role (positive, negative).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from atelier.core.conditioning import Role
from atelier.engine.request import RunningRequest
from atelier.families.family import Conditions, Family


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
    #: Request and prompt role of each real row; the rows after these are padding.
    refs: tuple[RowRef, ...]


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


def pack(requests: Sequence[RunningRequest], family: Family, *, width: int | None) -> Packed:
    """Pack the rows (one per image and prompt role) of the requests into UNet calls.

    With a `width` every call has that many rows, padded with copies of its last row; without, one call has all rows.
    """
    layout = _layout(requests)
    device = requests[0].latents.device
    passes = [request.request.pass_ for request in requests for _ in range(request.num_images)]
    scales = [image_pass.guidance_scale for image_pass in passes]
    return Packed(
        calls=_calls(requests, layout, family, width=width),
        positive_row=torch.tensor(layout.positive_row, device=device),
        negative_row=torch.tensor(layout.negative_row, device=device),
        guidance_scale=torch.tensor(scales, device=device).view(-1, 1, 1, 1),
        guidance_rescale={
            image: image_pass.guidance_rescale
            for image, image_pass in enumerate(passes)
            if image_pass.is_guided and image_pass.guidance_rescale > 0
        },
        width=width,
    )


@dataclass(slots=True)
class _Layout:
    """Lists of indices: from each row to its request, prompt and image, and from each image to its rows."""

    ref_of_row: list[RowRef] = field(default_factory=list)
    prompt_of_row: list[int] = field(default_factory=list)
    image_of_row: list[int] = field(default_factory=list)
    positive_row: list[int] = field(default_factory=list)
    negative_row: list[int] = field(default_factory=list)


def _layout(requests: Sequence[RunningRequest]) -> _Layout:
    """Return the order of the UNet's rows: by request, then by prompt, then by image."""
    layout = _Layout()
    num_prompts = num_images = 0
    for request_index, request in enumerate(requests):
        rows: dict[Role, range] = {}
        for role in request.prompts:
            first_row = len(layout.ref_of_row)
            rows[role] = range(first_row, first_row + request.num_images)
            layout.ref_of_row += [RowRef(request_index, role)] * request.num_images
            layout.prompt_of_row += [num_prompts] * request.num_images
            layout.image_of_row += range(num_images, num_images + request.num_images)
            num_prompts += 1
        layout.positive_row += rows["positive"]
        layout.negative_row += rows.get("negative", rows["positive"])
        num_images += request.num_images
    return layout


def _calls(
    requests: Sequence[RunningRequest], layout: _Layout, family: Family, *, width: int | None
) -> tuple[Call, ...]:
    prompts = [prompt for request in requests for prompt in request.prompts.values()]
    sizes = [request.request.pass_.size for request in requests for _ in request.prompts]
    stacked, device = family.stack(prompts, sizes), requests[0].latents.device
    num_rows = len(layout.ref_of_row)
    width = width or num_rows
    rows = [*range(num_rows), *[num_rows - 1] * (-num_rows % width)]
    calls = []
    for start in range(0, len(rows), width):
        call_rows = rows[start : start + width]
        prompt_index = torch.tensor([layout.prompt_of_row[row] for row in call_rows], device=device)
        image_index = torch.tensor([layout.image_of_row[row] for row in call_rows], device=device)
        refs = tuple(layout.ref_of_row[start : start + width])
        calls.append(Call(stacked.select(prompt_index), image_index, refs))
    return tuple(calls)
