from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.models.autoencoder import Autoencoder
from atelier.models.loading import DtypeName, Placement, load_vae
from tests.small_models import CPU
from zoo.scenes import arrange, draw, random_description


@pytest.fixture(scope="module")
def autoencoder(catalogue: Catalogue) -> Autoencoder:
    return Autoencoder(catalogue.model(None), CPU)


def test_decoded_image_resembles_the_encoded_one(autoencoder: Autoencoder) -> None:
    random = Random(3)
    pictures = [
        draw(arrange(random_description(random, num_things=2), random, width=136, height=96)) for _ in range(4)
    ]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    mean, std = autoencoder.encode_latents(pixels)
    assert mean.shape == std.shape == (4, 4, 12, 17)
    assert (std > 0).all()
    decoded = autoencoder.decode_latents(mean)
    assert decoded.shape == pixels.shape
    error = decoded.astype(np.float32) - pixels
    psnr_db = 10 * np.log10(255**2 / np.square(error).mean(axis=(1, 2, 3)))
    assert psnr_db.min() > 25


def test_latents_have_about_unit_variance(autoencoder: Autoencoder) -> None:
    random = Random(4)
    scenes = [arrange(random_description(random, num_things=1), random, width=128, height=128) for _ in range(30)]
    mean, _ = autoencoder.encode_latents(np.stack([np.asarray(draw(scene)) for scene in scenes]))
    assert 0.8 < mean.std() < 1.2


def test_latents_of_an_image_do_not_depend_on_the_others(small_catalogue: Catalogue) -> None:
    autoencoder = Autoencoder(small_catalogue.model(None), CPU)
    latents = np.random.default_rng(0).standard_normal((3, 4, 8, 12), dtype=np.float32)
    together = autoencoder.decode_latents(latents)
    assert together.shape == (3, 64, 96, 3)
    for image in range(3):
        assert np.array_equal(together[image : image + 1], autoencoder.decode_latents(latents[image : image + 1]))


def test_latents_are_in_the_scale_of_the_unet(small_catalogue: Catalogue) -> None:
    """Mean and standard deviation are those of diffusers' posterior times the scaling factor."""
    entry = small_catalogue.model(None)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    mean, std = Autoencoder(entry, CPU).encode_latents(pixels)
    vae = load_vae(entry, CPU)
    with torch.inference_mode():
        posterior = vae.encode(torch.tensor(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
    np.testing.assert_allclose(mean, (0.8 * posterior.mean).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, (0.8 * posterior.std).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 16), (16, 16), (9, 15), (24, 20), (40, 40)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_images_have_the_bits_of_diffusers_vae_at_any_size(
    small_catalogue: Catalogue, height: int, width: int, dtype: DtypeName
) -> None:
    """The decoder is traced at one size; PyTorch's operations are chosen by size."""
    entry, placement = small_catalogue.model(None), Placement("cpu", dtype)
    latents = np.random.default_rng(0).standard_normal((1, 4, height, width), dtype=np.float32)
    vae = load_vae(entry, placement)
    vae.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        image = vae.decode(torch.tensor(latents).to(placement.dtype) / vae.config.scaling_factor).sample
    expected = ((image / 2 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = Autoencoder(entry, placement).decode_latents(latents)
    assert np.array_equal(decoded, expected)


def test_results_are_contiguous(small_catalogue: Catalogue) -> None:
    """The strides of an array decide about the bits of what later stages compute from it."""
    autoencoder = Autoencoder(small_catalogue.model(None), CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    mean, std = autoencoder.encode_latents(pixels)
    decoded = autoencoder.decode_latents(mean)
    assert mean.flags.c_contiguous
    assert std.flags.c_contiguous
    assert decoded.flags.c_contiguous


def test_strides_of_latents_do_not_change_bits(small_catalogue: Catalogue) -> None:
    autoencoder = Autoencoder(small_catalogue.model(None), CPU)
    latents = np.random.default_rng(0).standard_normal((2, 4, 8, 12), dtype=np.float32)
    channels_last = np.ascontiguousarray(latents.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert np.array_equal(autoencoder.decode_latents(channels_last), autoencoder.decode_latents(latents))
