"""The constant part of requests that share UNet calls, as tensors.

Every tensor has a known axis: images, or rows (what the UNet sees; an image with guidance owns two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from atelier.engine.request import ActiveRequest
from atelier.families.sdxl.conditions import Conditions, stack


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose row it is."""

    #: Index of the request, and of the prompt among its prompts.
    request: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Call:
    """The rows of one UNet call."""

    conditions: Conditions
    #: [rows], index of each row's image
    image: torch.Tensor
    #: Of the first rows; those behind them only fill the call up.
    owners: tuple[Owner, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """The constant part of a batch."""

    calls: tuple[Call, ...]
    #: [images], index of the row with the image's prompt, and of the one without; the same where there is no guidance
    text_row: torch.Tensor
    uncond_row: torch.Tensor
    #: [images, 1, 1, 1]
    guidance_scale: torch.Tensor
    #: Images whose guidance is rescaled, and by how much.
    guidance_rescale: dict[int, float]
    #: Rows of every model call, if their number is fixed.
    width: int | None


def pack(requests: Sequence[ActiveRequest], *, width: int | None) -> Packed:
    """Lay out the rows; calls have `width` rows each, filled up with copies, or hold all rows if it is None."""
    prompts = [prompt for request in requests for prompt in request.prompts]
    layout = _layout(requests)
    num_rows = len(layout.image_of_row)
    of_prompt = [request.arrival.request for request in requests for _ in request.prompts]
    sizes = [(request.height, request.width) for request in of_prompt]
    stacked, device = stack(prompts, sizes), requests[0].latents.device
    rows_of_call = width or num_rows
    rows = [*range(num_rows), *[num_rows - 1] * (-num_rows % rows_of_call)]
    calls = []
    for start in range(0, len(rows), rows_of_call):
        of_call = rows[start : start + rows_of_call]
        prompt_index = torch.tensor([layout.prompt_of_row[row] for row in of_call], device=device)
        image_index = torch.tensor([layout.image_of_row[row] for row in of_call], device=device)
        owners = tuple(layout.owner[start : start + rows_of_call])
        calls.append(Call(stacked.select(prompt_index), image_index, owners))
    of_image = [request.arrival.request for request in requests for _ in request.generators]
    scales = [request.guidance_scale for request in of_image]
    return Packed(
        calls=tuple(calls),
        text_row=torch.tensor(layout.text_row, device=device),
        uncond_row=torch.tensor(layout.uncond_row, device=device),
        guidance_scale=torch.tensor(scales, device=device).view(-1, 1, 1, 1),
        guidance_rescale={
            image: request.guidance_rescale
            for image, request in enumerate(of_image)
            if request.is_guided and request.guidance_rescale > 0
        },
        width=width,
    )


@dataclass(slots=True)
class _Layout:
    owner: list[Owner] = field(default_factory=list)
    prompt_of_row: list[int] = field(default_factory=list)
    image_of_row: list[int] = field(default_factory=list)
    text_row: list[int] = field(default_factory=list)
    uncond_row: list[int] = field(default_factory=list)


def _layout(requests: Sequence[ActiveRequest]) -> _Layout:
    """Request by request, in each prompt by prompt, in each image by image."""
    layout = _Layout()
    num_prompts = num_images = 0
    for request_index, request in enumerate(requests):
        first_row = len(layout.image_of_row)
        for prompt_index in range(len(request.prompts)):
            layout.owner += [Owner(request_index, prompt_index)] * request.num_images
            layout.prompt_of_row += [num_prompts] * request.num_images
            layout.image_of_row += range(num_images, num_images + request.num_images)
            num_prompts += 1
        layout.uncond_row += range(first_row, first_row + request.num_images)
        layout.text_row += range(len(layout.image_of_row) - request.num_images, len(layout.image_of_row))
        num_images += request.num_images
    return layout
