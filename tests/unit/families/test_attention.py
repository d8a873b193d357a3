"""Attention: which UNets and embeddings are accepted, and the conditions computed from prompts and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import TextEmbeds
from atelier.core.geometry import Size
from atelier.families.unet.attention import install, prompt_conditions
from atelier.families.unet.conditions import MASKED, stack
from atelier.families.unet.embeds import zero_embeds
from atelier.models.loading import load_unet
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS


@pytest.fixture(scope="module")
def unet(small_catalogue: Catalogue) -> UNet2DConditionModel:
    return load_unet(small_catalogue.model(None), CPU)


def _embeds(num_chunks: int, *, width: int = sum(TEXT_WIDTHS), pooled_width: int = POOLED_WIDTH) -> TextEmbeds:
    random = np.random.default_rng(num_chunks)
    return TextEmbeds(
        prompt_embeds=random.standard_normal((77 * num_chunks, width), dtype=np.float32),
        pooled_prompt_embeds=random.standard_normal(pooled_width, dtype=np.float32),
    )


def test_unet_with_other_attention_is_rejected() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        cross_attention_dim=16,
    )
    with pytest.raises(ValueError, match="not the plain attention"):
        install(unet)


@pytest.mark.parametrize("embeds", [_embeds(1, width=7), _embeds(1, pooled_width=7)])
def test_embeddings_of_other_widths_are_rejected(unet: UNet2DConditionModel, embeds: TextEmbeds) -> None:
    with pytest.raises(ValueError, match=f"the model's widths, {sum(TEXT_WIDTHS)} and {POOLED_WIDTH}"):
        prompt_conditions(unet, embeds, CPU)


def test_zero_embeddings_have_the_models_widths(unet: UNet2DConditionModel) -> None:
    embeds = zero_embeds(unet)
    assert embeds.prompt_embeds.shape == (77, sum(TEXT_WIDTHS))
    assert embeds.pooled_prompt_embeds.shape == (POOLED_WIDTH,)


@torch.inference_mode()
def test_stacked_prompts_are_padded_and_masked(unet: UNet2DConditionModel) -> None:
    prompts = [prompt_conditions(unet, _embeds(num_chunks), CPU) for num_chunks in (1, 2)]
    conditions = stack(prompts, [Size(width=96, height=64)] * 2, num_tokens=231)
    assert conditions.num_tokens == 231
    lengths = [(bias == 0).sum().item() for bias in conditions.prompt_bias]
    assert lengths == [77, 154]
    assert set(conditions.prompt_bias.unique().tolist()) == {0.0, MASKED}
    for layer, keys in enumerate(conditions.prompt.keys):
        assert torch.equal(keys[0, :77], prompts[0].keys_values.keys[layer][0])
        assert not keys[0, 77:].any()
    assert torch.equal(conditions.pooled_prompt_embeds[1], prompts[1].pooled_prompt_embeds)


@torch.inference_mode()
def test_time_ids_are_height_before_width(unet: UNet2DConditionModel) -> None:
    prompt = prompt_conditions(unet, _embeds(1), CPU)
    conditions = stack([prompt, prompt], [Size(width=96, height=64), Size(width=72, height=80)])
    assert conditions.add_time_ids.tolist() == [[64, 96, 0, 0, 64, 96], [80, 72, 0, 0, 80, 72]]
