from __future__ import annotations

import traceback
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from atelier.core.errors import InvalidParameter
from atelier.core.geometry import Size
from atelier.imaging.inputs import (
    MAX_PIXELS,
    RgbPixels,
    blend,
    check_format,
    image_size,
    opened_image,
    read_image,
    read_pixels,
    to_latent_mask,
    to_mask,
    to_pixels,
)
from tests.pictures import encoded, noise

_ORIENTATION = 0x0112


def _read(picture: Image.Image, output_format: str = "PNG", **options: object) -> Image.Image:
    with read_image(encoded(picture, output_format, **options), param="image") as read:
        return read.copy()


def _header_of_a_png(width: int, height: int) -> bytes:
    """A PNG whose header states this size, but which holds no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _upright(pixels: RgbPixels, orientation: int) -> RgbPixels:
    """The stored pixels turned upright, by EXIF's table of where row 0 and column 0 are displayed."""
    swapped = np.swapaxes(pixels, 0, 1)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: swapped,
        6: swapped[:, ::-1],
        7: swapped[::-1, ::-1],
        8: swapped[::-1],
    }[orientation]


@pytest.mark.parametrize("output_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(orientation: int, output_format: str) -> None:
    picture, exif = noise(24, 16), Image.Exif()
    exif[_ORIENTATION] = orientation
    options: dict[str, object] = {"exif": exif} if output_format == "PNG" else {"exif": exif, "lossless": True}
    expected = _upright(np.asarray(picture), orientation)
    read = _read(picture, output_format, **options)
    assert np.array_equal(np.asarray(read), expected)
    size = image_size(encoded(picture, output_format, **options), param="image")
    assert (size.width, size.height) == read.size == ((16, 24) if orientation >= 5 else (24, 16))


def test_an_image_without_an_orientation_stays_as_it_is() -> None:
    picture = noise(24, 16)
    assert np.array_equal(np.asarray(_read(picture)), np.asarray(picture))
    assert image_size(encoded(picture, "JPEG"), param="image") == Size(width=24, height=16)


def test_sixteen_bits_are_reduced_to_eight() -> None:
    """Depth maps often have 16 bits."""
    ramp = np.tile(np.linspace(0, 65_535, 64, dtype=np.uint16), (48, 1))
    pixels = to_pixels(_read(Image.fromarray(ramp)), Size(width=64, height=48))
    assert np.abs(pixels[..., 0].astype(int) - ramp // 256).max() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (9, 8, 7), "RGB"),
        ("RGBA", (9, 8, 7, 255), "RGB"),
        ("RGBA", (9, 8, 7, 254), "RGBA"),
        ("LA", (9, 255), "RGB"),
        ("LA", (9, 0), "RGBA"),
        ("L", 9, "RGB"),
        ("P", 0, "RGB"),
        ("1", 1, "RGB"),
    ],
)
def test_only_a_transparent_image_has_an_alpha_channel(
    mode: str, colour: tuple[int, ...] | int, expected: str
) -> None:
    assert _read(Image.new(mode, (8, 8), colour)).mode == expected


def test_one_transparent_pixel_makes_an_image_transparent() -> None:
    picture = Image.new("RGBA", (8, 8), "red")
    picture.putpixel((3, 4), (0, 0, 0, 0))
    assert _read(picture).mode == "RGBA"


@pytest.mark.parametrize("output_format", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read(output_format: str) -> None:
    check_format(encoded(noise(24, 16), output_format), param="image")
    assert _read(noise(24, 16), output_format).size == (24, 16)


@pytest.mark.parametrize("output_format", ["BMP", "GIF", "TIFF", "ICO"])
def test_other_formats_are_rejected(output_format: str) -> None:
    data = encoded(noise(24, 16), output_format)
    for read in (
        lambda: check_format(data, param="mask"),
        lambda: image_size(data, param="mask"),
        lambda: _reads(data),
    ):
        with pytest.raises(InvalidParameter, match="mask: not a readable image; send PNG, JPEG, WEBP") as caught:
            read()
        assert caught.value.param == "mask"


def _reads(data: bytes) -> None:
    with read_image(data, param="mask"):
        pass


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", encoded(noise(64, 48))[:2000]])
def test_a_broken_file_is_rejected(data: bytes) -> None:
    with pytest.raises(InvalidParameter, match="mask: not a readable image") as caught:
        _reads(data)
    assert caught.value.param == "mask"


def test_up_to_4096_by_4096_pixels_are_read() -> None:
    assert MAX_PIXELS == 16_777_216
    assert image_size(_header_of_a_png(4096, 4096), param="image") == Size(width=4096, height=4096)
    for width, height in ((4097, 4096), (4096, 4097), (16_777_217, 1)):
        with pytest.raises(
            InvalidParameter, match=f"{width}x{height} is too large; at most 16777216 pixels"
        ) as caught:
            image_size(_header_of_a_png(width, height), param="mask")
        assert caught.value.param == "mask"


def test_a_decompression_bomb_is_rejected() -> None:
    with pytest.raises(InvalidParameter, match="bomb"):
        image_size(_header_of_a_png(50_000, 50_000), param="image")


def _with_scans(num_scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated; each repetition is decoded like the first."""
    data = encoded(noise(64, 48), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan, end = data[last:-2], data[-2:]
    return data[:-2] + scan * (num_scans - data.count(b"\xff\xda")) + end


def test_a_jpeg_of_many_scans_is_rejected_before_decoding() -> None:
    for read in (lambda data: image_size(data, param="mask"), _reads):
        read(_with_scans(64))
        with pytest.raises(InvalidParameter, match="mask: a JPEG of 65 scans") as caught:
            read(_with_scans(65))
        assert caught.value.param == "mask"


def test_an_unknown_format_is_named_without_addresses_in_memory() -> None:
    with pytest.raises(InvalidParameter) as caught:
        _reads(b"not a picture")
    assert str(caught.value) == "mask: not a readable image; send PNG, JPEG, WEBP."


def test_the_size_is_read_without_the_pixels() -> None:
    cut_off = encoded(noise(64, 48))[:200]
    assert image_size(cut_off, param="image") == Size(width=64, height=48)


def test_an_error_does_not_keep_what_was_decoded() -> None:
    """Decoders keep the pixels read so far in their frames, which the error's traceback would keep alive."""
    with pytest.raises(InvalidParameter) as caught:
        _reads(encoded(noise(64, 48))[:2000])
    cause = caught.value.__cause__
    assert cause is not None
    names = {name for frame, _ in traceback.walk_tb(cause.__traceback__) for name in frame.f_locals}
    assert "decoder" not in names
    assert "pixel" not in names


def test_an_error_while_the_image_is_open_names_it() -> None:
    with (
        pytest.raises(InvalidParameter, match="image: not a readable image"),
        opened_image(encoded(noise(8, 8)), param="image"),
    ):
        raise OSError("broken")
    with pytest.raises(InvalidParameter, match="mine"), opened_image(encoded(noise(8, 8)), param="image"):
        raise InvalidParameter("mine")


def test_an_image_is_closed_after_use() -> None:
    with read_image(encoded(noise(8, 8)), param="image") as image:
        assert image.getpixel((0, 0)) is not None
    with pytest.raises(ValueError, match="closed"):
        image.getpixel((0, 0))


def test_an_image_of_the_right_size_keeps_every_pixel() -> None:
    picture = noise(24, 16)
    assert np.array_equal(to_pixels(picture, Size(width=24, height=16)), np.asarray(picture))


def test_transparent_parts_are_laid_over_white() -> None:
    picture = Image.new("RGBA", (16, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 8, 8))
    pixels = to_pixels(picture, Size(width=16, height=8))
    assert (pixels[:, :8] == (0, 0, 255)).all()
    assert (pixels[:, 8:] == (255, 255, 255)).all()
    half = to_pixels(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), Size(width=8, height=8))
    assert (half == 127).all()


@pytest.mark.parametrize("is_upright", [False, True])
def test_an_image_covers_the_size_and_is_cropped_evenly(is_upright: bool) -> None:
    stripes = np.zeros((32, 96, 3), dtype=np.uint8)
    stripes[:, :32], stripes[:, 32:64], stripes[:, 64:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    picture = Image.fromarray(np.ascontiguousarray(np.swapaxes(stripes, 0, 1)) if is_upright else stripes)
    assert (to_pixels(picture, Size(width=32, height=32)) == (0, 255, 0)).all()
    shape = to_pixels(picture, Size(width=40, height=16)).shape
    assert shape == (16, 40, 3)


@pytest.mark.parametrize(("alpha", "expected"), [(0, 255), (127, 255), (128, 0), (254, 0)])
def test_transparent_parts_are_painted(alpha: int, expected: int) -> None:
    mask = to_mask(Image.new("RGBA", (24, 16), (255, 255, 255, alpha)), Size(width=24, height=16))
    assert (mask.shape, str(mask.dtype)) == ((16, 24), "uint8")
    assert (mask == expected).all()


@pytest.mark.parametrize(("light", "expected"), [(0, 0), (127, 0), (128, 255), (255, 255)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_light_parts_of_an_opaque_mask_are_painted(mode: str, light: int, expected: int) -> None:
    colour = light if mode == "L" else (light,) * 3
    assert (to_mask(Image.new(mode, (24, 16), colour), Size(width=24, height=16)) == expected).all()


def test_a_mask_is_fitted_like_its_image_and_stays_black_and_white() -> None:
    picture = Image.new("L", (96, 32), 0)
    picture.paste(255, (48, 0, 96, 32))
    mask = to_mask(picture, Size(width=16, height=16))
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[:, :8] == 0).all()
    assert (mask[:, 8:] == 255).all()


def test_the_latent_mask_takes_the_first_pixel_of_each_block() -> None:
    mask = np.zeros((16, 24), dtype=np.uint8)
    mask[8, 16] = mask[0, 7] = mask[7, 0] = mask[9, 8] = 255
    latent_mask = to_latent_mask(mask)
    assert latent_mask.dtype == np.float32
    assert latent_mask.tolist() == [[0, 0, 0], [0, 0, 1]]


def _corner_mask(side: int) -> npt.NDArray[np.uint8]:
    """A concave mask: all but the upper left quarter."""
    mask = np.full((side, side), 255, dtype=np.uint8)
    mask[: side // 2, : side // 2] = 0
    return mask


def test_pixels_outside_the_mask_are_the_originals() -> None:
    painted, original, mask = (
        np.full((128, 128, 3), 255, np.uint8),
        np.zeros((128, 128, 3), np.uint8),
        _corner_mask(128),
    )
    blended = blend(painted, original, mask)
    assert blended.dtype == np.uint8
    assert (blended[mask == 0] == 0).all()


def test_the_mask_has_a_soft_edge_inside() -> None:
    painted, original = np.full((128, 128, 3), 200, np.uint8), np.zeros((128, 128, 3), np.uint8)
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[:, 64:] = 255
    row = blend(painted, original, mask)[64, :, 0].astype(int)
    assert (row[:64] == 0).all()
    assert 0 < row[64] < 100
    assert row[64] < row[66] < 200
    assert (np.diff(row) >= 0).all()
    assert (row[72:] == 200).all()


def test_the_soft_edge_grows_with_the_shorter_side() -> None:
    def width_of_edge(width: int, height: int) -> int:
        painted = np.full((height, width, 3), 255, np.uint8)
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[:, width // 2 :] = 255
        row = blend(painted, np.zeros_like(painted), mask)[height // 2, :, 0]
        return int(((row > 0) & (row < 255)).sum())

    assert width_of_edge(512, 512) > width_of_edge(512, 128) == width_of_edge(128, 128)


def test_a_mask_of_everything_paints_everything() -> None:
    painted, original = np.asarray(noise(24, 16)), np.asarray(noise(24, 16, seed=1))
    assert np.array_equal(blend(painted, original, np.full((16, 24), 255, np.uint8)), painted)
    assert np.array_equal(blend(painted, original, np.zeros((16, 24), np.uint8)), original)


@pytest.mark.parametrize("height", [1, 255, 256, 257, 700])
def test_transparent_parts_become_white_in_strips_as_at_once(height: int) -> None:
    picture = noise(24, height, channels=4)
    white = Image.new("RGBA", picture.size, "white")
    at_once = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    assert np.array_equal(to_pixels(picture, Size(width=24, height=height)), at_once)
    assert np.array_equal(read_pixels(encoded(picture), param="image", keep_alpha=False), at_once)


def test_pixels_of_a_file_keep_their_alpha() -> None:
    picture = noise(24, 16, channels=4)
    assert np.array_equal(read_pixels(encoded(picture), param="image", keep_alpha=True), np.asarray(picture))
    opaque = noise(24, 16)
    assert np.array_equal(read_pixels(encoded(opaque), param="image", keep_alpha=True), np.asarray(opaque))
