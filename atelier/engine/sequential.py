"""Reference implementation of the engine: one request, diffusers' scheduler, UNet and attention, no batching.

It is slow and plain, and shares no code with the engine that it checks; callers pass in a diffusers scheduler. Only
tests run it.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from atelier.core.conditioning import TextEmbeds
from atelier.core.denoising import DenoiseRequest
from atelier.core.geometry import Size


@torch.inference_mode()
def denoise(unet: UNet2DConditionModel, scheduler: SchedulerMixin, request: DenoiseRequest) -> torch.Tensor:
    """Compute the final latents [images, 4, h, w] of a request that starts from noise and has no controls.

    `unet` has diffusers' own attention processors; `scheduler` has its timesteps set.
    """
    pass_ = request.pass_
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in pass_.seeds]
    shape = (1, unet.config.in_channels, pass_.size.height // 8, pass_.size.width // 8)
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents: torch.Tensor = noise * scheduler.init_noise_sigma
    extra = _step_arguments(scheduler, generators, pass_.sampling.eta)
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)
        noise_pred = _predict_guided(unet, model_input, timestep, request)
        latents = scheduler.step(noise_pred, timestep, latents, **extra).prev_sample
    return latents


def _step_arguments(scheduler: SchedulerMixin, generators: list[torch.Generator], eta: float) -> dict[str, object]:
    """Return `generator` and `eta` if `scheduler.step` accepts them, like diffusers' `prepare_extra_step_kwargs`."""
    accepted = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in (("generator", generators), ("eta", eta)) if name in accepted}


def _predict_guided(
    unet: UNet2DConditionModel, model_input: torch.Tensor, timestep: torch.Tensor, request: DenoiseRequest
) -> torch.Tensor:
    pass_, positive = request.pass_, request.conditioning.positive
    noise_pred_text = _predict(unet, model_input, timestep, positive, pass_.size)
    if pass_.guidance_scale <= 1:
        return noise_pred_text
    negative = request.conditioning.negative or _zeros(positive)
    noise_pred_uncond = _predict(unet, model_input, timestep, negative, pass_.size)
    noise_pred = noise_pred_uncond + pass_.guidance_scale * (noise_pred_text - noise_pred_uncond)
    if pass_.guidance_rescale > 0:
        noise_pred = rescale_noise_cfg(noise_pred, noise_pred_text, pass_.guidance_rescale)
    return noise_pred


def _zeros(embeds: TextEmbeds) -> TextEmbeds:
    """Return embeddings of zeros, for a missing negative prompt (diffusers' `force_zeros_for_empty_prompt`)."""
    return TextEmbeds(
        prompt_embeds=np.zeros_like(embeds.prompt_embeds),
        pooled_prompt_embeds=np.zeros_like(embeds.pooled_prompt_embeds),
    )


def _predict(
    unet: UNet2DConditionModel, model_input: torch.Tensor, timestep: torch.Tensor, embeds: TextEmbeds, size: Size
) -> torch.Tensor:
    """Compute `noise_pred` for one prompt, [images, 4, h, w]."""
    num_images, time_ids = len(model_input), [size.height, size.width, 0, 0, size.height, size.width]
    noise_pred: torch.Tensor = unet(
        model_input,
        timestep,
        encoder_hidden_states=torch.tensor(embeds.prompt_embeds).expand(num_images, -1, -1),
        added_cond_kwargs={
            "text_embeds": torch.tensor(embeds.pooled_prompt_embeds).expand(num_images, -1),
            "time_ids": torch.tensor([time_ids], dtype=torch.float32).expand(num_images, -1),
        },
    ).sample
    return noise_pred
