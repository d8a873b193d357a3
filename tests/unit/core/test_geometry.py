from __future__ import annotations

import pytest

from atelier.core.geometry import PIXELS_PER_LATENT, Size


def test_a_size_is_read_and_written_as_width_by_height() -> None:
    size = Size.parse("128x96")
    assert (size.width, size.height) == (128, 96)
    assert str(size) == "128x96"
    assert Size.parse("99999x1") == Size(width=99_999, height=1)


@pytest.mark.parametrize(
    "text",
    ["", "128", "128x", "x96", "0x96", "96x0", "096x96", "123456x8", "8x123456", "8X8", "8x8x8", " 8x8", "8x8\n"],
)
def test_a_text_that_is_not_a_size_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
        Size.parse(text)


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (-8, 8), (8, -8)])
def test_a_size_without_pixels_is_rejected(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="has no pixels"):
        Size(width=width, height=height)


def test_one_pixel_is_a_size() -> None:
    assert Size(width=1, height=1).num_pixels == 1


def test_a_latent_position_stands_for_eight_by_eight_pixels() -> None:
    size = Size(width=40, height=24)
    assert PIXELS_PER_LATENT == 8
    assert (size.num_pixels, size.latent_width, size.latent_height) == (960, 5, 3)
    assert size.num_latent_positions == 15


@pytest.mark.parametrize(
    ("width", "height", "is_whole"), [(16, 24, True), (20, 24, False), (16, 20, False), (17, 24, False), (8, 8, True)]
)
def test_whole_latents_need_both_sides_in_multiples_of_eight(width: int, height: int, is_whole: bool) -> None:
    assert Size(width=width, height=height).is_whole_latents is is_whole


def test_scaling_rounds_each_side_to_whole_pixels() -> None:
    assert Size(width=25, height=13).scaled(2.5) == Size(width=62, height=32)
    assert Size(width=10, height=7).scaled(1.25) == Size(width=12, height=9)


def test_rounding_to_whole_latents_takes_the_nearest_multiple_of_eight() -> None:
    assert Size(width=61, height=67).in_whole_latents() == Size(width=64, height=64)
    assert Size(width=59, height=101).in_whole_latents() == Size(width=56, height=104)
