from __future__ import annotations

import numpy as np
import pytest

from atelier.models.preview_decoder import PreviewDecoder
from tests.preview_decoders import write_decoder
from tests.small_models import CPU


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> PreviewDecoder:
    return PreviewDecoder("small", write_decoder(tmp_path_factory.mktemp("decoder")), CPU)


def _flat(*channels: float, height: int = 3, width: int = 5) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.tile(np.array([*channels, 0], dtype=np.float32)[None, :, None, None], (1, 1, height, width))


def test_latents_become_images_of_eight_times_their_sides(decoder: PreviewDecoder) -> None:
    latents = np.concatenate([_flat(1, 0, 0), _flat(0, 0.5, 1)])
    pixels = decoder.decode(latents)
    assert (pixels.shape, str(pixels.dtype)) == ((2, 24, 40, 3), "uint8")
    # The decoder's inputs are 3 · tanh(x / 3).
    high, half = round(255 * 3 * np.tanh(1 / 3)), round(255 * 3 * np.tanh(0.5 / 3))
    # On the CPU it may run in bfloat16, which has eight bits.
    np.testing.assert_allclose(pixels[0].astype(int), np.broadcast_to((high, 0, 0), (24, 40, 3)), atol=2)
    np.testing.assert_allclose(pixels[1].astype(int), np.broadcast_to((0, half, high), (24, 40, 3)), atol=2)


def test_colours_beyond_the_range_are_clipped(decoder: PreviewDecoder) -> None:
    assert (decoder.decode(_flat(9, -9, 0)) == (255, 0, 0)).all()


def test_large_images_are_reduced_to_the_longest_side(decoder: PreviewDecoder) -> None:
    latents = _flat(0, 0, 0, height=40, width=80)
    latents[:, 0, :, 40:] = 1
    pixels = decoder.decode(latents)
    assert pixels.shape == (1, 256, 512, 3)
    assert (pixels[0, :, :255, 0] < 5).all()
    assert (pixels[0, :, 257:, 0] > 240).all()
