"""Calls to the zoo's ControlNets with contexts of their own."""

from __future__ import annotations

import numpy as np
import torch

from atelier.control.calls import Contexts, ControlCall, ControlContext, ControlRow
from atelier.core.conditioning import TextEmbeds


def new_call(
    *,
    seed: int,
    num_rows: int = 2,
    controlnet: str = "tiny-canny",
    width: int | None = None,
    num_tokens: int = 77,
    num_chunks: int = 1,
) -> tuple[ControlCall, Contexts]:
    """Random rows of 12 × 9 latents, all of one random picture and text."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    text = TextEmbeds(
        prompt_embeds=random.standard_normal((77 * num_chunks, 128), dtype=np.float32),
        pooled_prompt_embeds=random.standard_normal(64, dtype=np.float32),
    )
    image = random.integers(0, 255, (96, 72, 3), dtype=np.uint8)
    context = ControlContext.of(controlnet, image, [text])
    call = ControlCall(
        controlnet=controlnet,
        rows=(ControlRow(context.context_id, 0, 0.8, False),) * num_rows,
        model_input=torch.randn(num_rows, 4, 12, 9, generator=generator),
        timesteps=torch.linspace(10, 900, num_rows),
        num_tokens=num_tokens,
        width=width,
    )
    return call, {context.context_id: context}
