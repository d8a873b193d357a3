"""A VAE over the tiles of an image, against the same VAE on the whole image."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.models.autoencoder import Autoencoder, Pixels
from atelier.models.loading import Placement
from atelier.models.memory import Memory
from atelier.models.tiled_vae import Tiling
from tests.small_models import CPU
from zoo.scenes import arrange, draw, random_description

_AGGRESSIVE = Placement("cpu", "float32", Memory(level="aggressive"))
_TILE_PX = 96
_TILING = Tiling(tile_px=_TILE_PX, max_whole_pixels=64 * 64)


@pytest.fixture(scope="module")
def whole(catalogue: Catalogue) -> Autoencoder:
    return Autoencoder(catalogue.model("tiny-sdxl"), CPU)


@pytest.fixture(scope="module")
def tiled(catalogue: Catalogue) -> Autoencoder:
    return Autoencoder(catalogue.model("tiny-sdxl"), _AGGRESSIVE, tiling=_TILING)


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """Pictures of the zoo, [4, 256, 256, 3], which are nine tiles each."""
    random = Random(5)
    scenes = [arrange(random_description(random, num_things=2), random, width=256, height=256) for _ in range(4)]
    return np.stack([np.asarray(draw(scene)) for scene in scenes])


def test_pictures_decoded_in_tiles_are_those_decoded_whole(
    whole: Autoencoder, tiled: Autoencoder, pictures: Pixels
) -> None:
    mean, _ = whole.encode_latents(pictures)
    expected, decoded = whole.decode_latents(mean), tiled.decode_latents(mean)
    for picture, other in zip(expected, decoded, strict=True):
        error = np.square(picture.astype(np.float64) - other).mean()
        assert error < 255**2 / 10**5.0, "less than 50 dB"
        assert _step_at_seams(other) <= 1.05 * _step_at_seams(picture)


def test_latents_encoded_in_tiles_are_those_encoded_whole(
    whole: Autoencoder, tiled: Autoencoder, pictures: Pixels
) -> None:
    (mean, std), (tiled_mean, tiled_std) = whole.encode_latents(pictures), tiled.encode_latents(pictures)
    assert np.abs(mean - tiled_mean).max() < 2e-3
    assert np.abs(std - tiled_std).max() < 2e-4


@pytest.mark.parametrize("size", [(96, 96), (200, 104), (104, 192), (72, 256)])
def test_tiles_cover_images_of_any_sides(small_catalogue: Catalogue, size: tuple[int, int]) -> None:
    entry = small_catalogue.model(None)
    whole, tiled = Autoencoder(entry, CPU), Autoencoder(entry, _AGGRESSIVE, tiling=_TILING)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    (mean, _), (tiled_mean, _) = whole.encode_latents(pixels), tiled.encode_latents(pixels)
    assert np.abs(mean - tiled_mean).max() < 1e-4
    expected, decoded = whole.decode_latents(mean), tiled.decode_latents(mean)
    assert np.abs(expected.astype(int) - decoded).max() <= 1


def test_the_same_size_gives_the_same_bits(tiled: Autoencoder, pictures: Pixels) -> None:
    mean, _ = tiled.encode_latents(pictures)
    alone, _ = tiled.encode_latents(pictures[1:2])
    assert np.array_equal(mean[1:2], alone)
    assert np.array_equal(tiled.decode_latents(mean)[1:2], tiled.decode_latents(alone))


def test_images_in_tiles_have_another_origin(whole: Autoencoder, tiled: Autoencoder) -> None:
    assert whole.weights_hash != tiled.weights_hash


def test_small_images_are_not_cut(whole: Autoencoder, tiled: Autoencoder) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    assert np.array_equal(whole.decode_latents(latents), tiled.decode_latents(latents))


def _step_at_seams(picture: Pixels) -> float:
    """Return the mean absolute difference of the neighbouring pixels at the borders of tiles."""
    values = picture.astype(np.float64)
    borders = range(_TILE_PX, len(picture), _TILE_PX)
    rows = [np.abs(values[border] - values[border - 1]).mean() for border in borders]
    columns = [np.abs(values[:, border] - values[:, border - 1]).mean() for border in borders]
    return float(np.mean(rows + columns))
