"""The arithmetic of one step of a batch, apart from the UNet; requests may differ in sampler, schedule and step.

All arithmetic is elementwise or within one image, so that the bits of an image do not depend on its position in the
batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atelier.engine.packing import Packed
from atelier.engine.request import RunningRequest, StepState
from atelier.engine.schedules import B0, B1, B2, C_OUT, C_SKIP, A, S


def numbers_of_step(requests: Sequence[RunningRequest]) -> torch.Tensor:
    """Return the columns of `Schedule.steps` for the present step of each image, [11, images, 1, 1, 1]."""
    rows = [request.schedule.steps[request.step_index] for request in requests for _ in range(request.num_images)]
    numbers = torch.from_numpy(np.stack(rows, axis=1).astype(np.float32))
    return numbers[..., None, None, None].to(requests[0].latents.device)


def guide(noise_pred: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Apply classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w).

    Takes the rows' `noise_pred` [rows, 4, h, w] and returns one guided `noise_pred` per image, [images, 4, h, w]. An
    image without guidance has one row, which is returned unchanged.
    """
    noise_pred_text, noise_pred_uncond = noise_pred[packed.positive_row], noise_pred[packed.negative_row]
    guided = noise_pred_uncond + packed.guidance_scale * (noise_pred_text - noise_pred_uncond)
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
    requests: Sequence[RunningRequest], numbers: torch.Tensor, latents: torch.Tensor, noise_pred: torch.Tensor
) -> list[StepState]:
    """Compute the next latents of all images by the formula of `samplers`, and return one state per request.

    `numbers` come from `numbers_of_step`; `latents` and the guided `noise_pred` are [images, 4, h, w].
    """
    denoised_1 = torch.cat([request.denoised_1 for request in requests])
    denoised_2 = torch.cat([request.denoised_2 for request in requests])
    noise = torch.cat([request.draw_noise() for request in requests]).to(latents.device)
    denoised = numbers[C_SKIP] * latents + numbers[C_OUT] * noise_pred
    latents = (
        numbers[A] * latents
        + numbers[B0] * denoised
        + numbers[B1] * denoised_1
        + numbers[B2] * denoised_2
        + numbers[S] * noise
    )
    is_finite = torch.isfinite(latents).flatten(1).all(1).tolist()
    states, first = [], 0
    for request in requests:
        images = slice(first, first + request.num_images)
        states.append(
            StepState(
                latents=request.restored(latents[images]),
                denoised=denoised[images],
                is_finite=all(is_finite[images]),
            )
        )
        first = images.stop
    return states
