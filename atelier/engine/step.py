"""The arithmetic of one step of a batch, apart from the UNet; requests may differ in sampler, schedule and step.

All arithmetic is elementwise or within one image, so that the bits of an image do not depend on its position in the
batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atelier.engine.packing import Packed
from atelier.engine.readback import Finite, Readback
from atelier.engine.request import RunningRequest, StepState
from atelier.engine.schedules import B0, B1, B2, C_OUT, C_SKIP, A, S
from atelier.models.transfer import uploaded


def numbers_of_step(requests: Sequence[RunningRequest]) -> torch.Tensor:
    """Return the columns of `Schedule.steps` for the present step of each image, [11, images, 1, 1, 1]."""
    rows = [request.numbers[request.step_index].expand(request.num_images, -1) for request in requests]
    return torch.cat(rows).T[..., None, None, None]


def noise_of_step(requests: Sequence[RunningRequest]) -> list[torch.Tensor | None]:
    """Return each request's noise for its present step, [images, 4, h, w]; None if it adds none."""
    drawn = [request.draw_noise() for request in requests]
    noisy = [noise for noise in drawn if noise is not None]
    if not noisy:
        return [None for _ in drawn]
    on_device = iter(uploaded(torch.cat(noisy), requests[0].latents.device).split([len(noise) for noise in noisy]))
    return [None if noise is None else next(on_device) for noise in drawn]


def guide(noise_pred: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Apply classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w; Brooks et al. 2023, eq. 3).

    Takes the rows' `noise_pred` [rows, 4, h, w] and returns one guided `noise_pred` per image, [images, 4, h, w]. An
    image without guidance has one row, which is returned unchanged.
    """
    noise_pred_text, noise_pred_uncond = noise_pred[packed.positive_row], noise_pred[packed.negative_row]
    edit = packed.image_guidance
    if edit is None:
        guided = noise_pred_uncond + packed.guidance_scale * (noise_pred_text - noise_pred_uncond)
    else:
        noise_pred_image = noise_pred[edit.row]
        guided = noise_pred_uncond + packed.guidance_scale * (noise_pred_text - noise_pred_image)
        guided = guided + edit.scale * (noise_pred_image - noise_pred_uncond)
    for image, guidance_rescale in packed.guidance_rescale.items():
        guided[image] = _rescale(guided[image], noise_pred_text[image], guidance_rescale)
    return guided


def _rescale(guided: torch.Tensor, noise_pred_text: torch.Tensor, guidance_rescale: float) -> torch.Tensor:
    """Blend one image's guided `noise_pred` with a copy rescaled to the standard deviation of `noise_pred_text`.

    Source: Lin et al. 2023, "Common Diffusion Noise Schedules …", eq. 15 and 16.
    """
    rescaled = guided * (noise_pred_text.std() / guided.std())
    return guidance_rescale * rescaled + (1 - guidance_rescale) * guided


def advance(
    requests: Sequence[RunningRequest],
    numbers: torch.Tensor,
    latents: torch.Tensor,
    noise_pred: torch.Tensor,
    noise: Sequence[torch.Tensor | None],
) -> list[StepState]:
    """Compute the next latents of all images by the formula of `samplers`, and return one state per request.

    `numbers` and `noise` come from `numbers_of_step` and `noise_of_step`; `latents` and the guided `noise_pred` are
    [images, 4, h, w]. Nothing waits for the device.
    """
    denoised_1 = torch.cat([request.denoised_1 for request in requests])
    denoised_2 = torch.cat([request.denoised_2 for request in requests])
    denoised = numbers[C_SKIP] * latents + numbers[C_OUT] * noise_pred
    latents = numbers[A] * latents + numbers[B0] * denoised + numbers[B1] * denoised_1 + numbers[B2] * denoised_2
    readback = Readback(torch.isfinite(latents).flatten(1).all(1))
    states, first = [], 0
    for request, added in zip(requests, noise, strict=True):
        images = slice(first, first + request.num_images)
        own = latents[images] if added is None else latents[images] + numbers[S][images] * added
        states.append(
            StepState(latents=request.restored(own), denoised=denoised[images], finite=Finite(readback, images))
        )
        first = images.stop
    return states
