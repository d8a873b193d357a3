from __future__ import annotations

from random import Random

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.models.autoencoder import Autoencoder
from tests.small_models import CPU
from zoo.scenes import arrange, draw, random_description


@pytest.fixture(scope="module")
def autoencoder(catalogue: Catalogue) -> Autoencoder:
    return Autoencoder(catalogue.model(None), CPU)


def test_a_picture_survives_encoding_and_decoding(autoencoder: Autoencoder) -> None:
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
