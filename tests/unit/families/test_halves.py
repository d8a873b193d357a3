"""The two halves of the UNet against `forward` of diffusers with its own attention, bit for bit."""

from __future__ import annotations

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.core.geometry import Size
from atelier.families.family import family_of
from atelier.families.unet.attention import keys_values
from atelier.families.unet.conditions import MASKED, Conditions
from atelier.families.unet.halves import block_names
from atelier.models.loading import load_unet
from benchmarks.sdxl_size import new_unet
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


def test_blocks_of_sdxl_hold_all_of_its_weights() -> None:
    """Sizes in parameters are those of SDXL base 1.0, whose config this is."""
    with torch.device("meta"):
        unet = new_unet()
    names = block_names(unet)
    sizes = [sum(tensor.numel() for tensor in unet.get_submodule(name).parameters()) for name in names]
    assert len(set(names)) == len(names)
    assert sum(sizes) == 2_567_463_684
    assert max(sizes) == pytest.approx(0.351e9, rel=1e-3)


@pytest.mark.parametrize("model", _WIDTHS)
def test_blocks_are_named_in_the_order_in_which_they_run(two_families: Catalogue, model: str) -> None:
    entry = two_families.model(model)
    unet, family = load_unet(entry, CPU), family_of(entry.family)
    family.install(unet)
    called: list[str] = []
    names = block_names(unet)
    for name in names:
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    prompt = family.prompt_conditions(unet, family.zero_embeds(unet), CPU)
    conditions = family.stack([prompt], [Size(width=64, height=64)])
    with torch.inference_mode():
        encoded = family.encode_half(unet, torch.zeros(1, 4, 8, 8), torch.zeros(1), conditions)
        family.decode_half(unet, encoded, conditions)
    assert called == names
