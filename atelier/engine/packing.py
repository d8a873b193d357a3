"""The constant part of requests that share UNet calls, as tensors.

Every tensor has a known axis: images, or rows (what the UNet sees; an image with guidance owns two).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from atelier.engine.request import ActiveRequest, PromptConditions
from atelier.models.conditions import MASKED, Conditions, KeysValues


@dataclass(frozen=True, slots=True)
class Call:
    """The rows of one UNet call."""

    conditions: Conditions
    #: [rows], index of each row's image
    image: torch.Tensor


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


def pack(requests: Sequence[ActiveRequest], *, width: int | None) -> Packed:
    """Lay out the rows; calls have `width` rows each, filled up with copies, or hold all rows if it is None."""
    prompts = [prompt for request in requests for prompt in request.prompts]
    layout = _layout(requests)
    num_rows = len(layout.image_of_row)
    stacked, device = _stack(prompts, requests), requests[0].latents.device
    width = width or num_rows
    rows = [*range(num_rows), *[num_rows - 1] * (-num_rows % width)]
    calls = []
    for start in range(0, len(rows), width):
        of_call = rows[start : start + width]
        prompt_index = torch.tensor([layout.prompt_of_row[row] for row in of_call], device=device)
        image_index = torch.tensor([layout.image_of_row[row] for row in of_call], device=device)
        calls.append(Call(stacked.select(prompt_index), image_index))
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
    )


@dataclass(slots=True)
class _Layout:
    prompt_of_row: list[int] = field(default_factory=list)
    image_of_row: list[int] = field(default_factory=list)
    text_row: list[int] = field(default_factory=list)
    uncond_row: list[int] = field(default_factory=list)


def _layout(requests: Sequence[ActiveRequest]) -> _Layout:
    """Request by request, in each prompt by prompt, in each image by image."""
    layout = _Layout()
    num_prompts = num_images = 0
    for request in requests:
        first_row = len(layout.image_of_row)
        for _ in request.prompts:
            layout.prompt_of_row += [num_prompts] * request.num_images
            layout.image_of_row += range(num_images, num_images + request.num_images)
            num_prompts += 1
        layout.uncond_row += range(first_row, first_row + request.num_images)
        layout.text_row += range(len(layout.image_of_row) - request.num_images, len(layout.image_of_row))
        num_images += request.num_images
    return layout


def _stack(prompts: Sequence[PromptConditions], requests: Sequence[ActiveRequest]) -> Conditions:
    """Conditions with a row per prompt, the shorter prompts padded and masked."""
    lengths = torch.tensor([prompt.num_tokens for prompt in prompts])
    positions = torch.arange(int(lengths.max()))
    pooled = torch.stack([prompt.pooled_prompt_embeds for prompt in prompts])
    bias = torch.where(positions < lengths[:, None], 0.0, MASKED).to(pooled)
    time_ids = [_time_ids(request) for request in requests for _ in request.prompts]
    return Conditions(
        prompt=KeysValues(
            _padded([prompt.keys_values.keys for prompt in prompts]),
            _padded([prompt.keys_values.values for prompt in prompts]),
        ),
        prompt_bias=bias[:, None],
        pooled_prompt_embeds=pooled,
        add_time_ids=torch.tensor(time_ids).to(pooled),
    )


def _padded(of_prompts: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Per layer one tensor [prompts, longest, width], with zeros at the ends of the shorter."""
    return tuple(
        torch.nn.utils.rnn.pad_sequence([prompt[0] for prompt in layer], batch_first=True)
        for layer in zip(*of_prompts, strict=True)
    )


def _time_ids(request: ActiveRequest) -> list[float]:
    """(orig_h, orig_w, crop_top, crop_left, target_h, target_w) in pixels (Podell et al. 2023, §2.2)."""
    size = [float(request.arrival.request.height), float(request.arrival.request.width)]
    return [*size, 0.0, 0.0, *size]
