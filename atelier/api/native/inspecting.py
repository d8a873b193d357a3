"""The metadata of image files, as an answer to `inspect` and as headers of stored files."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from PIL import Image
from pydantic import BaseModel, Field

from atelier.imaging.inputs import opened_image
from atelier.imaging.metadata import Metadata, read_metadata

#: Maximum length of the metadata header, in characters; servers and proxies refuse headers that are much longer.
_MAX_HEADER_CHARS = 4000


class Inspection(BaseModel):
    """Generation parameters read from an image file's metadata."""

    format: str
    size: str
    parameters: dict[str, object] | None = Field(
        description="The fields that make the image again; null if the file has none."
    )
    trigger_words_added: list[str] = Field(
        description="Trigger words of LoRAs that the server put into the prompt, which has them in `parameters`."
    )
    infotext: str | None = Field(
        description="Prompt and settings in AUTOMATIC1111's text format; null if the file has none."
    )
    weights: dict[str, str] | None = Field(description="Hashes of the weights of the models that took part, by name.")
    versions: dict[str, str] | None
    exactness_key: str | None
    server: str | None


def inspection(data: bytes) -> Inspection:
    """Read the metadata of an image file. Raises InvalidParameter if it is not an image."""
    with opened_image(data, param="image") as image:
        metadata = read_metadata(image)
        described = {"format": (image.format or "").lower(), "size": f"{image.width}x{image.height}"}
    record: Mapping[str, object] = {} if metadata is None else metadata.record
    return Inspection.model_validate(
        {
            **described,
            "parameters": record.get("parameters"),
            "trigger_words_added": record.get("trigger_words_added", []),
            "infotext": None if metadata is None else metadata.infotext,
            "weights": record.get("weights"),
            "versions": record.get("versions"),
            "exactness_key": record.get("exactness_key"),
            "server": record.get("server"),
        }
    )


def file_headers(data: bytes, name: str) -> dict[str, str]:
    """Return the HTTP headers of a stored file: a file name from model and seed, and the metadata if short enough.

    The headers of a file without metadata are empty.
    """
    with Image.open(io.BytesIO(data)) as image:
        metadata = read_metadata(image)
    if metadata is None:
        return {}
    headers = {"content-disposition": f'inline; filename="{_file_name(metadata, name)}"'}
    if len(metadata.record_json) <= _MAX_HEADER_CHARS:
        headers["x-generation-metadata"] = metadata.record_json
    return headers


def _file_name(metadata: Metadata, name: str) -> str:
    parameters = metadata.record["parameters"]
    assert isinstance(parameters, dict)
    model = re.sub(r"[^A-Za-z0-9.-]+", "-", str(parameters.get("model")))
    return f"{model}-{parameters.get('seed')}-{name[:8]}{name[name.rindex('.') :]}"
