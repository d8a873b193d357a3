"""Which UNets are Stable Diffusion 1.5's, and what their rows read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import TextEmbeds
from atelier.core.geometry import Size
from atelier.families import sd15, sdxl
from atelier.models.loading import load_unet
from tests.small_models import CPU
from tests.small_sd15 import TEXT_WIDTH

_SIZES = (Size(width=64, height=72),) * 4


@pytest.fixture(scope="module")
def unet(two_families: Catalogue) -> UNet2DConditionModel:
    unet = load_unet(two_families.model("small-sd15"), CPU).to(memory_format=torch.channels_last)
    sd15.install(unet)
    return unet


def test_a_unet_of_the_other_family_is_rejected(two_families: Catalogue) -> None:
    with pytest.raises(ValueError, match=r"'text_time'; Stable Diffusion 1\.5's is None"):
        sd15.install(load_unet(two_families.model("small-sdxl"), CPU))
    with pytest.raises(ValueError, match="addition_embed_type is None; SDXL's is 'text_time'"):
        sdxl.install(load_unet(two_families.model("small-sd15"), CPU))


def test_a_unet_that_reads_more_than_latents_is_rejected() -> None:
    inpainting = UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
    )
    with pytest.raises(ValueError, match=r"in_channels is 9; Stable Diffusion 1\.5's is 4"):
        sd15.install(inpainting)


def test_embeddings_of_sdxl_are_rejected(unet: UNet2DConditionModel) -> None:
    embeds = TextEmbeds(
        prompt_embeds=np.zeros((77, TEXT_WIDTH), np.float32), pooled_prompt_embeds=np.zeros(8, np.float32)
    )
    with pytest.raises(ValueError, match=f"the model's widths, {TEXT_WIDTH} and 0"):
        sd15.prompt_conditions(unet, embeds, CPU)


def test_zero_embeddings_have_no_pooled_part(unet: UNet2DConditionModel) -> None:
    embeds = sd15.zero_embeds(unet)
    assert embeds.prompt_embeds.shape == (77, TEXT_WIDTH)
    assert embeds.pooled_prompt_embeds.shape == (0,)


def _embeds(seed: int, num_chunks: int = 1) -> TextEmbeds:
    random = np.random.default_rng(seed)
    return TextEmbeds(
        prompt_embeds=random.standard_normal((77 * num_chunks, TEXT_WIDTH), dtype=np.float32),
        pooled_prompt_embeds=np.zeros(0, np.float32),
    )


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 15)])
@torch.inference_mode()
def test_traced_program_gives_the_halves_bits(unet: UNet2DConditionModel, height: int, width: int) -> None:
    prompts = [sd15.prompt_conditions(unet, _embeds(seed, 1 + seed % 2), CPU) for seed in range(3)]
    conditions = sd15.stack(prompts, _SIZES[:3])
    latents, timesteps = torch.randn(3, 4, height, width), torch.tensor([999.0, 500.0, 1.0])
    encoded = sd15.encode_half(unet, latents, timesteps, conditions)
    traced = sd15.trace(unet, CPU)
    ours = traced.encode_half(latents, timesteps, conditions)
    assert all(torch.equal(*skips) for skips in zip(ours.skips, encoded.skips, strict=True))
    assert torch.equal(traced.decode_half(ours, conditions), sd15.decode_half(unet, encoded, conditions))


@torch.inference_mode()
def test_a_rows_bits_depend_on_neither_its_place_nor_its_neighbours(unet: UNet2DConditionModel) -> None:
    generator = torch.Generator().manual_seed(0)
    mine = torch.randn(1, 4, 9, 8, generator=generator)
    prompt = sd15.prompt_conditions(unet, _embeds(0), CPU)

    def noise_pred_of_mine(row: int, seed: int) -> torch.Tensor:
        others = torch.randn(4, 4, 9, 8, generator=torch.Generator().manual_seed(seed))
        prompts = [sd15.prompt_conditions(unet, _embeds(seed + 1 + other), CPU) for other in range(4)]
        slots = sd15.new_slots()
        prompts[row], others[row] = prompt, mine[0]
        for slot, of_slot in enumerate(prompts):
            slots.write([slot], of_slot, _SIZES[slot])
        conditions = slots.read(slice(0, 4), num_tokens=77, forms=[])
        timesteps = torch.tensor([100.0 * (seed + 1)] * 4)
        timesteps[row] = 500.0
        encoded = sd15.encode_half(unet, others, timesteps, conditions)
        return sd15.decode_half(unet, encoded, conditions)[row]

    assert torch.equal(noise_pred_of_mine(0, 1), noise_pred_of_mine(3, 7))


@torch.inference_mode()
def test_conditions_survive_a_move_between_slots(unet: UNet2DConditionModel) -> None:
    slots = sd15.new_slots()
    first, second = (sd15.prompt_conditions(unet, _embeds(seed), CPU) for seed in (1, 2))
    slots.write([0], first, _SIZES[0])
    slots.write([1], second, _SIZES[1])
    slots.copy(1, 9)
    moved = slots.read(torch.tensor([9]), num_tokens=77, forms=[])
    assert torch.equal(moved.prompt.keys[0], second.keys_values.keys[0])
    assert moved.pooled_prompt_embeds.shape == (1, 0)
