"""What files of pictures tell of how they were made: asked for, and in the headers of those that are fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping

from PIL import Image
from pydantic import BaseModel, Field

from atelier.imaging.inputs import opened_picture
from atelier.imaging.metadata import Metadata, read_metadata

#: Servers and proxies refuse headers that are much longer.
_MAX_HEADER_CHARS = 4000


class Inspection(BaseModel):
    format: str
    size: str
    parameters: dict[str, object] | None = Field(
        description="The fields that make the picture again; none if the file does not tell."
    )
    infotext: str | None = Field(description="The same as AUTOMATIC1111's text.")
    weights: dict[str, str] | None = Field(description="Hashes of the models that took part, by their names.")
    versions: dict[str, str] | None
    exactness_key: str | None
    server: str | None


def inspection(data: bytes) -> Inspection:
    """Raises InvalidParameter if it is no picture."""
    with opened_picture(data, param="image") as picture:
        metadata = read_metadata(picture)
        described = {"format": (picture.format or "").lower(), "size": f"{picture.width}x{picture.height}"}
    record: Mapping[str, object] = {} if metadata is None else metadata.record
    return Inspection.model_validate(
        {
            **described,
            "parameters": record.get("parameters"),
            "infotext": None if metadata is None else metadata.infotext,
            "weights": record.get("weights"),
            "versions": record.get("versions"),
            "exactness_key": record.get("exactness_key"),
            "server": record.get("server"),
        }
    )


def file_headers(data: bytes, name: str) -> dict[str, str]:
    """A file name that begins with the model's, and the record; what is too long for a header stays in the file."""
    with Image.open(io.BytesIO(data)) as picture:
        metadata = read_metadata(picture)
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
