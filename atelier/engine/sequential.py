"""The oracle: one request, diffusers' scheduler, diffusers' UNet, no batching. Slow and plain; what the engine
does must agree with it. It runs nowhere but in tests and benchmarks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from atelier.core.conditioning import TextEmbeds
from atelier.core.denoising import DenoiseRequest
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.engine.schedules import new_scheduler


@torch.inference_mode()
def denoise(
    unet: UNet2DConditionModel, scheduler_config: Mapping[str, object], request: DenoiseRequest
) -> torch.Tensor:
    """Final latents [images, 4, h, w] of the request alone; `unet` has diffusers' own attention processors."""
    scheduler = new_scheduler(scheduler_config, request.sampling)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in request.seeds]
    shape = (1, unet.config.in_channels, request.height // PIXELS_PER_LATENT, request.width // PIXELS_PER_LATENT)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents: torch.Tensor = noise * scheduler.init_noise_sigma
    negative, positive = _prompts(request)
    accepted = inspect.signature(scheduler.step).parameters
    extra: dict[str, object] = {"generator": generators} if "generator" in accepted else {}
    if request.sampling.sampler == "ddim":
        extra["eta"] = request.sampling.eta
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)
        noise_pred = _predict(unet, model_input, timestep, positive, request)
        if request.is_guided:
            noise_pred_uncond = _predict(unet, model_input, timestep, negative, request)
            noise_pred_text = noise_pred
            noise_pred = noise_pred_uncond + request.guidance_scale * (noise_pred_text - noise_pred_uncond)
            if request.guidance_rescale > 0:
                noise_pred = rescale_noise_cfg(noise_pred, noise_pred_text, request.guidance_rescale)
        latents = scheduler.step(noise_pred, timestep, latents, **extra).prev_sample
    return latents


def _prompts(request: DenoiseRequest) -> tuple[TextEmbeds, TextEmbeds]:
    positive, negative = request.conditioning.positive, request.conditioning.negative
    zeros = TextEmbeds(
        prompt_embeds=np.zeros_like(positive.prompt_embeds),
        pooled_prompt_embeds=np.zeros_like(positive.pooled_prompt_embeds),
    )
    return negative or zeros, positive


def _predict(
    unet: UNet2DConditionModel,
    model_input: torch.Tensor,
    timestep: torch.Tensor,
    text: TextEmbeds,
    request: DenoiseRequest,
) -> torch.Tensor:
    images, size = len(model_input), [request.height, request.width]
    predicted: torch.Tensor = unet(
        model_input,
        timestep,
        encoder_hidden_states=torch.tensor(text.prompt_embeds).expand(images, -1, -1),
        added_cond_kwargs={
            "text_embeds": torch.tensor(text.pooled_prompt_embeds).expand(images, -1),
            "time_ids": torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32).expand(images, -1),
        },
    ).sample
    return predicted
