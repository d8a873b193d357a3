"""Metadata in image files: AUTOMATIC1111's infotext, and a JSON record that reproduces the image.

PNG carries both in iTXt chunks, JPEG and WebP in EXIF's UserComment and ImageDescription.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

_INFOTEXT, _RECORD = "parameters", "atelier"
_UNICODE = b"UNICODE\0"
#: Maximum nesting of lists and objects in a record, such as `controls` in `parameters`; deeper records are ignored.
_MAX_DEPTH = 8
#: Maximum size of both texts together in EXIF, in bytes; a JPEG segment holds 65,533 with its framing.
_MAX_EXIF_BYTES = 65_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of one image."""

    #: Prompt and settings as AUTOMATIC1111 writes them.
    infotext: str
    #: Fields of the request under `parameters`, trigger words, weights, versions and the exactness key.
    record: Mapping[str, object]

    @property
    def record_json(self) -> str:
        """The record as JSON in ASCII, for EXIF and HTTP headers."""
        return json.dumps(self.record, ensure_ascii=True, sort_keys=True)


def png_chunks(metadata: Metadata) -> PngInfo:
    """Write the metadata as PNG chunks."""
    chunks = PngInfo()
    chunks.add_itxt(_INFOTEXT, metadata.infotext)
    chunks.add_itxt(_RECORD, metadata.record_json)
    return chunks


def exif(metadata: Metadata) -> Image.Exif:
    """Write the metadata as EXIF tags; no tags if the texts do not fit into one JPEG segment."""
    tags = Image.Exif()
    comment = _UNICODE + metadata.infotext.encode("utf-16-be")
    if len(comment) + len(metadata.record_json) <= _MAX_EXIF_BYTES:
        tags[ExifTags.Base.ImageDescription] = metadata.record_json
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return tags


def read_metadata(picture: Image.Image) -> Metadata | None:
    """Read the metadata of an image file; None if it has none that this server wrote."""
    if picture.format == "PNG":
        infotext, record = picture.info.get(_INFOTEXT), picture.info.get(_RECORD)
    else:
        tags = picture.getexif()
        comment = tags.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
        infotext = _decoded(comment) if isinstance(comment, bytes) else None
        record = tags.get(ExifTags.Base.ImageDescription)
    parsed = _parsed(record)
    return None if parsed is None or not isinstance(infotext, str) else Metadata(str(infotext), parsed)


def _decoded(comment: bytes) -> str | None:
    text = comment.removeprefix(_UNICODE)
    return None if text == comment else text.decode("utf-16-be", errors="replace")


def _parsed(record: object) -> Mapping[str, object] | None:
    if not isinstance(record, str):
        return None
    try:
        parsed = json.loads(record)
        json.dumps(parsed, ensure_ascii=False).encode()
        is_deep = _depth(parsed) > _MAX_DEPTH
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(parsed, dict)
        and not is_deep
        and isinstance(parsed.get("parameters"), dict)
        and all(isinstance(parsed.get(name), str) for name in ("exactness_key", "server"))
        and all(_is_of_texts(parsed.get(name, {})) for name in ("weights", "versions"))
        and _is_list_of_texts(parsed.get("trigger_words_added", []))
    )
    return parsed if is_ours else None


def _is_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
