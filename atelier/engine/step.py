"""One step of every request of a batch, whatever their samplers, schedules and places in them.

Sums and products only, so that a row's bits do not depend on its place in a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from atelier.engine.packing import Packed
from atelier.engine.request import ActiveRequest
from atelier.engine.schedules import B0, B1, B2, C_OUT, C_SKIP, A, S


def numbers_of_step(requests: Sequence[ActiveRequest]) -> torch.Tensor:
    """The schedule's numbers for the step that each image is at, [11, images, 1, 1, 1]."""
    rows = [request.schedule.steps[request.step_index] for request in requests for _ in request.generators]
    numbers = torch.from_numpy(np.stack(rows, axis=1).astype(np.float32))
    return numbers[..., None, None, None].to(requests[0].latents.device)


def guide(model_output: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w), [rows, …] to [images, …].

    An image without guidance has one row, and gets it back as it is.
    """
    text, uncond = model_output[packed.text_row], model_output[packed.uncond_row]
    guided = uncond + packed.guidance_scale * (text - uncond)
    for image, guidance_rescale in packed.guidance_rescale.items():
        guided[image] = _rescale(guided[image], text[image], guidance_rescale)
    return guided


def _rescale(guided: torch.Tensor, text: torch.Tensor, guidance_rescale: float) -> torch.Tensor:
    """Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", eq. 15 and 16."""
    return guidance_rescale * (guided * (text.std() / guided.std())) + (1 - guidance_rescale) * guided


def advance(
    requests: Sequence[ActiveRequest], numbers: torch.Tensor, latents: torch.Tensor, model_output: torch.Tensor
) -> None:
    """The formula of `samplers`, from latents and guided model output [images, 4, h, w] to new latents for all."""
    denoised_1 = torch.cat([request.denoised_1 for request in requests])
    denoised_2 = torch.cat([request.denoised_2 for request in requests])
    noise = torch.cat([request.noise() for request in requests])
    denoised = numbers[C_SKIP] * latents + numbers[C_OUT] * model_output
    latents = (
        numbers[A] * latents
        + numbers[B0] * denoised
        + numbers[B1] * denoised_1
        + numbers[B2] * denoised_2
        + numbers[S] * noise
    )
    is_finite = torch.isfinite(latents).flatten(1).all(1).tolist()
    first = 0
    for request in requests:
        images = slice(first, first + request.num_images)
        request.denoised_2 = request.denoised_1
        request.latents, request.denoised_1 = latents[images], denoised[images]
        request.is_finite = all(is_finite[images])
        request.step_index += 1
        request.keep_what_is_not_painted()
        first = images.stop
