"""The latents that a request begins with: noise, or an init image with the noise of its first step."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from atelier.core.denoising import DenoiseRequest, InitImage
from atelier.core.sampling import Sampling
from atelier.engine.request import InpaintState, draw_noise
from atelier.engine.schedules import ALPHA, SIGMA, Schedule
from atelier.models.transfer import uploaded


def initial_latents(
    request: DenoiseRequest,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    num_channels: int,
    device: str,
) -> tuple[torch.Tensor, InpaintState | None]:
    """Return the latents before the first step, [images, channels, h, w], and with a mask the inpainting state.

    Every image draws its random numbers, with its own generator, in the order of the diffusers pipeline.
    """
    size = request.pass_.size
    if request.init_image is not None:
        return _noised(request.init_image, request.pass_.sampling, schedule, generators, device)
    noise = uploaded(draw_noise(generators, (num_channels, size.latent_height, size.latent_width)), device)
    return noise * schedule.init_noise_sigma, None


def _noised(
    init_image: InitImage,
    sampling: Sampling,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    device: str,
) -> tuple[torch.Tensor, InpaintState | None]:
    """Noise the init image to the noise level of the first step; return the inpainting state if there is a mask.

    Draws from the VAE's posterior, then the noise. Inpainting then makes and discards one more draw, which diffusers
    uses for the posterior of the masked image; at strength 1 it starts from noise alone.
    """
    shape = init_image.mean.shape[1:]
    posterior_noise = draw_noise(generators, shape)
    x0 = uploaded(torch.tensor(init_image.mean) + torch.tensor(init_image.std) * posterior_noise, device)
    noise = uploaded(draw_noise(generators, shape), device)
    alpha, sigma = schedule.steps[0, [ALPHA, SIGMA]].tolist()
    latents = alpha * x0 + sigma * noise
    if init_image.mask is None:
        return latents, None
    draw_noise(generators, shape)
    if sampling.strength == 1:
        latents = noise * schedule.init_noise_sigma
    return latents, InpaintState(x0=x0, noise=noise, mask=uploaded(torch.tensor(init_image.mask), device))
