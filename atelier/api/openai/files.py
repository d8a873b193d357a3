"""Answers that are the image files themselves, for clients such as curl."""

from __future__ import annotations

import io
import re
from zipfile import ZIP_STORED, ZipFile

from starlette.responses import Response

from atelier.imaging.formats import MEDIA_TYPES
from atelier.pipeline.results import Result

ZIP = "application/zip"


def file_response(result: Result) -> Response:
    """Return the image file or, if there are several, a ZIP archive of them; file names have model and seed."""
    output_format = result.plan.params.output_format
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", result.plan.model)
    names = [f"{stem}-{picture.seed}.{output_format}" for picture in result.pictures]
    if len(names) == 1:
        return _response(result.pictures[0].data, MEDIA_TYPES[output_format], names[0])
    archive = io.BytesIO()
    with ZipFile(archive, "w", ZIP_STORED) as file:
        for name, picture in zip(names, result.pictures, strict=True):
            file.writestr(name, picture.data)
    return _response(archive.getvalue(), ZIP, f"{stem}.zip")


def _response(data: bytes, media_type: str, name: str) -> Response:
    headers = {"content-disposition": f'inline; filename="{name}"'}
    return Response(data, media_type=media_type, headers=headers)
