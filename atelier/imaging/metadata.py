"""How a picture was made, told in its file: as AUTOMATIC1111's text for people and tools, and as a record from which
it can be made again. PNG has both as iTXt chunks; JPEG and WebP as EXIF's UserComment and ImageDescription."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

_INFOTEXT, _RECORD = "parameters", "atelier"
_UNICODE = b"UNICODE\0"
#: Of lists and objects in each other, as `controls` among `parameters`.
_MAX_DEPTH = 8
#: A JPEG's segment holds 65,533, with what frames the two texts.
_MAX_EXIF_BYTES = 65_000


@dataclass(frozen=True, slots=True)
class Metadata:
    infotext: str
    #: Fields of a request under `parameters`, and what made it.
    record: Mapping[str, object]

    @property
    def record_json(self) -> str:
        """ASCII, as EXIF and HTTP headers take it."""
        return json.dumps(self.record, ensure_ascii=True, sort_keys=True)


def png_chunks(metadata: Metadata) -> PngInfo:
    chunks = PngInfo()
    chunks.add_itxt(_INFOTEXT, metadata.infotext)
    chunks.add_itxt(_RECORD, metadata.record_json)
    return chunks


def exif(metadata: Metadata) -> Image.Exif:
    """Empty where both are longer than JPEG has room for."""
    tags = Image.Exif()
    comment = _UNICODE + metadata.infotext.encode("utf-16-be")
    if len(comment) + len(metadata.record_json) <= _MAX_EXIF_BYTES:
        tags[ExifTags.Base.ImageDescription] = metadata.record_json
        tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return tags


def read_metadata(picture: Image.Image) -> Metadata | None:
    """What the file tells, None if it is not one of ours or was written anew by somebody else."""
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
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(parsed, dict)
        and _depth(parsed) <= _MAX_DEPTH
        and isinstance(parsed.get("parameters"), dict)
        and all(isinstance(parsed.get(name), str) for name in ("exactness_key", "server"))
        and all(_is_of_texts(parsed.get(name, {})) for name in ("weights", "versions"))
    )
    return parsed if is_ours else None


def _is_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)
