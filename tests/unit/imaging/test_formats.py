from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from atelier.core.errors import InvalidParameter
from atelier.core.geometry import Size
from atelier.core.params import OutputFormat
from atelier.imaging.formats import MEDIA_TYPES, check_output, write_picture
from atelier.imaging.inputs import RgbPixels
from atelier.imaging.metadata import Metadata
from tests.pictures import decoded, noise, pixels_of

_SMALL = Size(width=8, height=8)


def _gradient() -> RgbPixels:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.stack([np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)], -1)


def _half_transparent() -> RgbPixels:
    """Opaque red on the left, transparent black on the right."""
    pixels = np.zeros((16, 32, 4), dtype=np.uint8)
    pixels[:, :16] = (255, 0, 0, 255)
    return pixels


def test_every_format_has_its_media_type() -> None:
    assert MEDIA_TYPES == {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


@pytest.mark.parametrize(("output_format", "pillows"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_file_has_the_format_and_size_that_were_asked_for(output_format: OutputFormat, pillows: str) -> None:
    picture = decoded(write_picture(_gradient(), output_format))
    assert (picture.format, picture.size, picture.mode) == (pillows, (64, 48), "RGB")


def test_png_keeps_every_pixel() -> None:
    assert np.array_equal(pixels_of(write_picture(_gradient(), "png")), _gradient())


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_lossy_formats_stay_close(output_format: OutputFormat) -> None:
    decoded_pixels = pixels_of(write_picture(_gradient(), output_format))
    assert np.abs(decoded_pixels.astype(int) - _gradient()).mean() < 3


@pytest.mark.parametrize(("output_format", "default"), [("jpeg", 95), ("webp", 90)])
def test_lossy_formats_have_a_default_quality(output_format: OutputFormat, default: int) -> None:
    pixels = np.asarray(noise(64, 48))
    files = {quality: write_picture(pixels, output_format, quality=quality) for quality in (None, 0, 50, default)}
    assert files[None] == files[default]
    assert len(files[0]) < len(files[50]) < len(files[default])


def test_jpeg_keeps_its_colours_at_full_resolution() -> None:
    picture = decoded(write_picture(_gradient(), "jpeg"))
    assert isinstance(picture, JpegImagePlugin.JpegImageFile)
    assert JpegImagePlugin.get_sampling(picture) == 0


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_transparency_is_kept(output_format: OutputFormat) -> None:
    alpha = pixels_of(write_picture(_half_transparent(), output_format))[..., 3]
    assert alpha[:, :16].min() == 255
    assert alpha[:, 16:].max() == 0


def test_transparent_parts_become_white_in_jpeg() -> None:
    picture = decoded(write_picture(_half_transparent(), "jpeg"))
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture)[:, 24:].astype(int) - 255).max() <= 2
    assert np.abs(np.asarray(picture)[:, :8].astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize(("length", "has_metadata"), [(1000, True), (40_000, False)])
def test_metadata_that_jpeg_has_no_room_for_is_left_out(length: int, has_metadata: bool) -> None:
    data = write_picture(_gradient(), "jpeg", metadata=Metadata("x" * length, {"parameters": {}}))
    assert bool(decoded(data).getexif()) == has_metadata


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_file_without_metadata_has_none(output_format: OutputFormat) -> None:
    picture = decoded(write_picture(_gradient(), output_format))
    assert not picture.getexif()
    assert not {"parameters", "atelier"} & picture.info.keys()


@pytest.mark.parametrize("quality", [0, 50, 99])
def test_png_has_no_quality(quality: int) -> None:
    with pytest.raises(InvalidParameter, match=f"PNG is lossless; use jpeg or webp for {quality}") as caught:
        check_output("png", quality, _SMALL)
    assert caught.value.param == "output_compression"


@pytest.mark.parametrize(
    ("output_format", "quality"), [("png", None), ("png", 100), ("jpeg", 0), ("jpeg", 100), ("webp", 50)]
)
def test_other_qualities_are_written(output_format: OutputFormat, quality: int | None) -> None:
    check_output(output_format, quality, _SMALL)


@pytest.mark.parametrize(("output_format", "longest"), [("jpeg", 65_500), ("webp", 16_383)])
def test_formats_have_a_longest_side(output_format: OutputFormat, longest: int) -> None:
    check_output(output_format, None, Size(width=longest, height=8))
    for width, height in ((longest + 1, 8), (8, longest + 1)):
        with pytest.raises(InvalidParameter, match=f"sides of up to {longest} pixels") as caught:
            check_output(output_format, None, Size(width=width, height=height))
        assert caught.value.param == "output_format"


def test_png_has_sides_of_any_length() -> None:
    check_output("png", None, Size(width=100_000, height=8))


def test_the_longest_webp_can_be_written() -> None:
    data = write_picture(np.asarray(Image.new("RGB", (16_383, 1))), "webp")
    assert decoded(data).size == (16_383, 1)
