"""Requests as the engine holds them, without a model: for tests of packing, batches and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from atelier.core.conditioning import Conditioning, Role, TextEmbeds
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, Pass, RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.batch import Batch
from atelier.engine.request import RunningRequest, Submitted
from atelier.engine.schedules import Schedules
from atelier.engine.splits import Splits
from atelier.families.family import PromptConditions, family_of
from atelier.families.unet.conditions import KeysValues
from tests.unit.engine.diffusers_schedulers import SDXL

_SCHEDULES = Schedules(SDXL)


def new_embeds(*, num_chunks: int = 1, width: int = 6, pooled_width: int = 2) -> TextEmbeds:
    """Embeddings of zeros."""
    return TextEmbeds(
        prompt_embeds=np.zeros((77 * num_chunks, width), dtype=np.float32),
        pooled_prompt_embeds=np.zeros(pooled_width, dtype=np.float32),
    )


def new_request(
    *,
    num_images: int = 1,
    num_chunks: int = 1,
    size: Size = Size(width=96, height=64),  # noqa: B008 frozen
    controls: Sequence[Control] = (),
    **of_pass: object,
) -> DenoiseRequest:
    """A request with embeddings of zeros; `of_pass` sets fields of its pass."""
    embeds = new_embeds(num_chunks=num_chunks)
    pass_ = Pass(
        model="small-sdxl",
        size=size,
        seeds=tuple(range(num_images)),
        sampling=Sampling(num_inference_steps=4),
        guidance_scale=5.0,
    )
    return DenoiseRequest(
        request_id=RequestId("req"),
        pass_=replace(pass_, **of_pass),  # type: ignore[arg-type]
        conditioning=Conditioning(positive=embeds, negative=None),
        controls=tuple(controls),
    )


def running(request: DenoiseRequest) -> RunningRequest:
    """The request after admission, with latents of zeros."""
    size, num_images = request.pass_.size, len(request.pass_.seeds)
    latents = torch.zeros(num_images, 4, size.latent_height, size.latent_width)
    return RunningRequest(
        submitted=Submitted(request, emit=lambda _: None),
        schedule=_SCHEDULES.of(request.pass_.sampling),
        num_rows=request.num_rows,
        num_chunks=request.num_chunks,
        generators=tuple(torch.Generator().manual_seed(seed) for seed in request.pass_.seeds),
        latents=latents,
        denoised_1=torch.zeros_like(latents),
        denoised_2=torch.zeros_like(latents),
    )


def prompts(request: RunningRequest, *values: float) -> dict[Role, PromptConditions]:
    """Prompts whose keys, values and pooled embeddings are `values`, in the order of the request's roles."""
    roles = request.request.embeds
    return {
        role: _prompt(value, num_tokens=77 * request.num_chunks) for role, value in zip(roles, values, strict=True)
    }


def new_batch(request: RunningRequest, *, exact_width: int = 4, num_calls: int = 1) -> Batch:
    """An empty batch for requests with this one's key; `fast` ones have so many calls, unless there are many rows."""
    splits = Splits({1: num_calls, 1000: 1})
    return Batch(request.submitted.key, family_of("sdxl"), exact_width=exact_width, splits=splits)


def _prompt(value: float, *, num_tokens: int) -> PromptConditions:
    layer = torch.full((1, num_tokens, 3), value)
    return PromptConditions(KeysValues((layer,), (layer,)), num_tokens, torch.full((2,), value))
