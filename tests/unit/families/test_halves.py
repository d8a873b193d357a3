"""The two halves of the UNet against `forward` of diffusers with its own attention, bit for bit."""

from __future__ import annotations

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.families.family import family_of
from atelier.families.unet.attention import keys_values
from atelier.families.unet.conditions import MASKED, Conditions
from atelier.models.loading import load_unet
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS
from tests.small_sd15 import TEXT_WIDTH

#: Widths of the prompt's embeddings and of the pooled one.
_WIDTHS = {"small-sdxl": (sum(TEXT_WIDTHS), POOLED_WIDTH), "small-sd15": (TEXT_WIDTH, 0)}


@pytest.mark.parametrize("model", _WIDTHS)
@pytest.mark.parametrize(("height", "width", "num_chunks"), [(16, 16, 1), (9, 15, 1), (8, 20, 3)])
@torch.inference_mode()
def test_halves_equal_the_forward_pass(
    two_families: Catalogue, model: str, height: int, width: int, num_chunks: int
) -> None:
    entry, (text_width, pooled_width) = two_families.model(model), _WIDTHS[model]
    theirs, ours, family = load_unet(entry, CPU), load_unet(entry, CPU), family_of(entry.family)
    family.install(ours)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, height, width, generator=generator)
    prompt_embeds = torch.randn(3, 77 * num_chunks, text_width, generator=generator)
    mask = torch.ones(3, 77 * num_chunks)
    mask[1, 77:] = 0
    pooled = torch.randn(3, pooled_width, generator=generator)
    time_ids = torch.tensor([[128.0, 96.0, 0.0, 0.0, 128.0, 96.0]]).expand(3, -1)
    timesteps = torch.tensor([999.0, 500.5, 1.0])
    expected = theirs(
        latents,
        timesteps,
        encoder_hidden_states=prompt_embeds,
        encoder_attention_mask=mask,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids} if pooled_width else None,
    ).sample
    conditions = Conditions(
        prompt=keys_values(ours, prompt_embeds),
        prompt_bias=((1 - mask) * MASKED)[:, None],
        pooled_prompt_embeds=pooled,
        add_time_ids=time_ids,
    )
    encoded = family.encode_half(ours, latents, timesteps, conditions)
    assert torch.equal(family.decode_half(ours, encoded, conditions), expected)
