"""The route of stored image files. A file's name is a hash of its content, so copies stay valid for ever."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from atelier.api.errors import ERRORS
from atelier.api.native.inspecting import file_headers
from atelier.api.services import FILE_ROUTE, UsedBlobs
from atelier.core.errors import NotFound
from atelier.imaging.formats import MEDIA_TYPES

router = APIRouter(tags=["Atelier"])

_TYPES = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()}
#: OpenAPI responses of a route that returns an image file.
FILES: dict[int | str, dict[str, Any]] = {200: {"content": _TYPES}, 206: {"content": _TYPES}, 304: {}, 416: {}}
_CACHE_CONTROL = "private, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@router.head("/v1/images/files/{name}", include_in_schema=False)
@router.get(
    "/v1/images/files/{name}",
    responses={**ERRORS, **FILES},
    response_class=Response,
    name=FILE_ROUTE,
)
async def picture_file(request: Request, name: str, blobs: UsedBlobs) -> Response:
    """Return a stored image file by its name, or a part of it."""
    data = await blobs.get(name)
    if data is None:
        raise NotFound(f"There is no image {name!r}, or its time to live is over.")
    return await file_response(request, name, data)


async def file_response(request: Request, name: str, data: bytes) -> Response:
    """Return a response with a stored file, or with the part that the request asks for."""
    etag = f'"{name}"'
    headers = {"etag": etag, "cache-control": _CACHE_CONTROL, "accept-ranges": "bytes"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    headers |= await asyncio.to_thread(file_headers, data, name)
    media_type = next(media for suffix, media in MEDIA_TYPES.items() if name.endswith(suffix))
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.headers.get("if-range", etag) != etag:
        return Response(data, media_type=media_type, headers=headers)
    part = _part(asked[1], asked[2], len(data))
    if part is None:
        return Response(status_code=416, headers={"content-range": f"bytes */{len(data)}"})
    headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
    return Response(data[part.start : part.stop], status_code=206, media_type=media_type, headers=headers)


def _part(first: str, last: str, length: int) -> range | None:
    """Return the bytes that a `Range` header asks for (RFC 9110, 14.1.2); None if the file has none of them."""
    if first:
        part = range(int(first), min(int(last) + 1, length) if last else length)
    else:
        part = range(max(length - int(last), 0), length) if last else range(0)
    return part if part else None
