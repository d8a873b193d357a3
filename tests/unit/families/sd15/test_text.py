"""Stable Diffusion 1.5's text encoder against diffusers' `StableDiffusionPipeline.encode_prompt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from atelier.core.conditioning import Text
from atelier.core.errors import InvalidParameter, ModelUnavailable
from atelier.families.sd15.text import TextEncoders
from atelier.families.unet.adapters.reading import read_adapter
from atelier.models.loading import load_scheduler, load_text_encoder, load_tokenizers, load_unet, load_vae
from tests.loras import add_lora, write_lora
from tests.small_models import CPU
from tests.small_sd15 import TEXT_WIDTH

_TEXTS = ("a red circle", "", "日本 🎨")


@pytest.fixture(scope="module")
def encoders(two_families: Catalogue) -> TextEncoders:
    return TextEncoders(two_families.model("small-sd15"), CPU)


@pytest.fixture(scope="module")
def theirs(two_families: Catalogue) -> StableDiffusionPipeline:
    entry = two_families.model("small-sd15")
    [tokenizer] = load_tokenizers(entry)
    text_encoder = load_text_encoder(entry, CPU)
    return StableDiffusionPipeline(
        vae=load_vae(entry, CPU),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=load_unet(entry, CPU),
        scheduler=load_scheduler(entry),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.inference_mode()
def test_embeddings_are_those_of_diffusers(encoders: TextEncoders, theirs: StableDiffusionPipeline) -> None:
    for text, ours in zip(_TEXTS, encoders.encode([Text(text, text) for text in _TEXTS]), strict=True):
        expected, _ = theirs.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)
        assert ours.prompt_embeds.shape == (77, TEXT_WIDTH)
        np.testing.assert_allclose(ours.prompt_embeds, expected[0].numpy(), atol=1e-5)
        assert ours.pooled_prompt_embeds.shape == (0,)


def test_the_text_for_a_second_encoder_is_not_read(encoders: TextEncoders) -> None:
    red, mixed = encoders.encode([Text("red", "red"), Text("red", "blue " * 900)])
    assert np.array_equal(red.prompt_embeds, mixed.prompt_embeds)
    encoders.check_length(Text("red", "blue " * 900))


def test_long_text_is_encoded_chunk_by_chunk(encoders: TextEncoders) -> None:
    long, first, second = encoders.encode(
        [Text("red " * 75 + "blue circle", ""), Text("red " * 75, ""), Text("blue circle", "")]
    )
    assert long.num_tokens == 77
    np.testing.assert_allclose(long.prompt_embeds[:77], first.prompt_embeds, atol=1e-5)
    np.testing.assert_allclose(long.prompt_embeds[77:], second.prompt_embeds, atol=1e-5)


def test_600_tokens_are_accepted_and_601_rejected(encoders: TextEncoders) -> None:
    encoders.check_length(Text("red " * 600, ""))
    with pytest.raises(InvalidParameter, match="601 tokens"):
        encoders.check_length(Text("red " * 601, ""))


def test_a_model_without_its_text_encoder_is_unavailable(two_families: Catalogue, tmp_path: Path) -> None:
    entry = two_families.model("small-sd15")
    assert entry.files.folder is not None
    (tmp_path / "tokenizer").symlink_to(entry.files.folder / "tokenizer")
    with pytest.raises(ModelUnavailable, match="small-sd15"):
        TextEncoders(entry.model_copy(update={"files": Files(folder=tmp_path)}), CPU)


@torch.inference_mode()
def test_a_lora_changes_its_own_text_as_in_peft(
    encoders: TextEncoders, two_families: Catalogue, tmp_path: Path
) -> None:
    entry = two_families.model("small-sd15")
    [tokenizer], peft = load_tokenizers(entry), load_text_encoder(entry, CPU)
    add_lora(peft, "style", rank=4, targets="text", seed=2, strength=1.0)
    write_lora("style", tmp_path / "style.safetensors", {"text_encoder": peft})
    adapter = read_adapter(tmp_path / "style.safetensors", name="style", modules=encoders.modules)
    ids = tokenizer("red", padding="max_length", max_length=77, return_tensors="pt").input_ids
    theirs = peft(ids).last_hidden_state[0].numpy()
    changed, plain = encoders.encode([Text("red", "red")] * 2, [[(adapter, 1.0)], []])
    np.testing.assert_allclose(changed.prompt_embeds, theirs, atol=2e-5)
    [alone] = encoders.encode([Text("red", "red")])
    np.testing.assert_allclose(plain.prompt_embeds, alone.prompt_embeds, atol=1e-5)
    assert np.abs(plain.prompt_embeds - theirs).max() > 0.1
