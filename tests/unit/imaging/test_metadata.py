from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from atelier.imaging.metadata import Metadata, exif, png_chunks, read_metadata
from tests.pictures import decoded, encoded

_INFOTEXT = "größer, 赤い\nSteps: 3"
_RECORD: Mapping[str, object] = {
    "server": "Atelier 1",
    "parameters": {"prompt": "größer", "seed": 11},
    "exactness_key": "abc",
    "weights": {"unet": "1"},
    "versions": {"torch": "2"},
}
_METADATA = Metadata(_INFOTEXT, _RECORD)
#: EXIF tag numbers of ImageDescription, of the Exif directory, and of UserComment in that directory.
_DESCRIPTION, _EXIF_DIRECTORY, _USER_COMMENT = 0x010E, 0x8769, 0x9286


def _file(output_format: str, metadata: Metadata = _METADATA) -> Image.Image:
    options = {"pnginfo": png_chunks(metadata)} if output_format == "PNG" else {"exif": exif(metadata)}
    return decoded(encoded(Image.new("RGB", (8, 8)), output_format, **options))


@pytest.mark.parametrize("output_format", ["PNG", "JPEG", "WEBP"])
def test_metadata_is_read_back_from_a_file(output_format: str) -> None:
    assert read_metadata(_file(output_format)) == _METADATA


def test_png_carries_both_texts_in_chunks() -> None:
    info = _file("PNG").info
    assert info["parameters"] == _INFOTEXT
    assert json.loads(info["atelier"]) == _RECORD


@pytest.mark.parametrize("output_format", ["JPEG", "WEBP"])
def test_jpeg_and_webp_carry_both_texts_in_exif(output_format: str) -> None:
    tags = _file(output_format).getexif()
    assert json.loads(tags[_DESCRIPTION]) == _RECORD
    assert tags.get_ifd(_EXIF_DIRECTORY)[_USER_COMMENT] == b"UNICODE\0" + _INFOTEXT.encode("utf-16-be")


def test_the_record_is_sorted_json_in_ascii() -> None:
    text = Metadata("", {"b": "ö", "a": 1}).record_json
    assert text == '{"a": 1, "b": "\\u00f6"}'


@pytest.mark.parametrize(("num_bytes", "is_written"), [(65_000, True), (65_001, False)])
def test_texts_longer_than_a_jpeg_segment_are_left_out(num_bytes: int, is_written: bool) -> None:
    infotext = "x" * 1000
    num_others = len(b"UNICODE\0") + 2 * len(infotext) + len('{"x": ""}')
    tags = exif(Metadata(infotext, {"x": "y" * (num_bytes - num_others)}))
    assert bool(tags) is is_written
    encoded(Image.new("RGB", (8, 8)), "JPEG", exif=tags)


@pytest.mark.parametrize("output_format", ["PNG", "JPEG", "WEBP"])
def test_a_file_from_elsewhere_has_no_metadata(output_format: str) -> None:
    assert read_metadata(decoded(encoded(Image.new("RGB", (8, 8)), output_format))) is None


@pytest.mark.parametrize("comment", [b"ASCII\0\0\0text", b"text", b""])
def test_a_comment_in_another_encoding_is_not_ours(comment: bytes) -> None:
    tags = exif(_METADATA)
    tags.get_ifd(_EXIF_DIRECTORY)[_USER_COMMENT] = comment
    assert read_metadata(decoded(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=tags))) is None


@pytest.mark.parametrize("missing", ["parameters", "atelier"])
def test_a_png_with_one_of_the_texts_is_not_ours(missing: str) -> None:
    chunks = PngInfo()
    for name, text in (("parameters", _INFOTEXT), ("atelier", _METADATA.record_json)):
        if name != missing:
            chunks.add_itxt(name, text)
    assert read_metadata(decoded(encoded(Image.new("RGB", (8, 8)), pnginfo=chunks))) is None


def _nested(depth: int) -> dict[str, object]:
    """A record nested `depth` levels deep, counting the record itself."""
    value: object = 1
    for _ in range(depth - 3):
        value = [value]
    return {**_RECORD, "parameters": {"x": value}}


@pytest.mark.parametrize(
    "record",
    [
        {"parameters": {}, "exactness_key": "x", "server": "x"},
        {**_RECORD, "something": "else"},
        _nested(8),
    ],
)
def test_a_record_of_ours_is_read(record: dict[str, object]) -> None:
    read = read_metadata(_file("PNG", Metadata("text", record)))
    assert read is not None
    assert read.record == record


@pytest.mark.parametrize(
    "record",
    [
        {**_RECORD, "parameters": []},
        {**_RECORD, "parameters": None},
        {**_RECORD, "exactness_key": 5},
        {**_RECORD, "server": []},
        {**_RECORD, "weights": {"x": 1}},
        {**_RECORD, "weights": "x"},
        {**_RECORD, "versions": ["x"]},
        {**_RECORD, "versions": {"x": None}},
        {**_RECORD, "trigger_words_added": "x"},
        {**_RECORD, "trigger_words_added": [1]},
        {"parameters": {}, "exactness_key": "x"},
        {"parameters": {}, "server": "x"},
        {"server": "x", "exactness_key": "x"},
        _nested(9),
        {**_RECORD, "parameters": {"prompt": "\ud800"}},
    ],
)
def test_a_record_of_another_shape_is_not_ours(record: dict[str, object]) -> None:
    assert read_metadata(_file("PNG", Metadata("text", record))) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 5000])
def test_a_record_that_is_no_json_object_is_not_ours(text: str) -> None:
    chunks = PngInfo()
    chunks.add_itxt("parameters", "x")
    chunks.add_itxt("atelier", text)
    assert read_metadata(decoded(encoded(Image.new("RGB", (8, 8)), pnginfo=chunks))) is None
