"""Calls to the small ControlNets, each with a context of its own."""

from __future__ import annotations

import numpy as np
import torch

from atelier.control.calls import Contexts, ControlCall, ControlContext, ControlRow
from atelier.control.residuals import Residuals
from atelier.core.conditioning import TextEmbeds
from tests.small_models import POOLED_WIDTH, TEXT_WIDTHS


def new_call(
    *,
    seed: int,
    num_rows: int = 2,
    controlnet: str = "small-canny",
    width: int | None = None,
    num_tokens: int = 77,
    num_chunks: int = 1,
    latent_width: int = 9,
    text_width: int = sum(TEXT_WIDTHS),
    pooled_width: int = POOLED_WIDTH,
) -> tuple[ControlCall, Contexts]:
    """A call of random latents [num_rows, 4, 12, latent_width] that share one random control image and prompts."""
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    negative, positive = (
        TextEmbeds(
            prompt_embeds=random.standard_normal((77 * num_chunks, text_width), dtype=np.float32),
            pooled_prompt_embeds=random.standard_normal(pooled_width, dtype=np.float32),
        )
        for _ in range(2)
    )
    image = random.integers(0, 255, (96, 8 * latent_width, 3), dtype=np.uint8)
    context = ControlContext.of(controlnet, image, {"negative": negative, "positive": positive})
    call = ControlCall(
        controlnet=controlnet,
        rows=(ControlRow(context.context_id, "positive", 0.8, False),) * num_rows,
        model_input=torch.randn(num_rows, 4, 12, latent_width, generator=generator),
        timesteps=torch.linspace(10, 900, num_rows),
        num_tokens=num_tokens,
        width=width,
    )
    return call, {context.context_id: context}


def are_equal(ours: Residuals, theirs: Residuals) -> bool:
    """Whether residuals are equal to the bit and made with the same weights."""
    return ours.weights_hash == theirs.weights_hash != "" and all(
        torch.equal(a, b)
        for a, b in zip([*ours.skips, ours.hidden_states], [*theirs.skips, theirs.hidden_states], strict=True)
    )
