"""Our own routes about LoRAs: lists, single ones, their preview images."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response

from atelier.api.errors import ERRORS
from atelier.api.native.schemas import LoraCapabilities, LoraList, LoraReport, RefusedLora
from atelier.api.prefix import with_prefix
from atelier.api.services import UsedPipeline
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import LoraEntry, ModelEntry
from atelier.core.errors import InvalidParameter, NotFound
from atelier.core.params.parsing import MAX_NAME_CHARS
from atelier.imaging.formats import MEDIA_TYPES, format_of

router = APIRouter(tags=["Atelier"])

_MAX_TAGS = 20
_MAX_PREVIEW_BYTES = 16 * 2**20
#: A preview may be replaced; copies are compared by ETag after this time.
_CACHE_CONTROL = "private, max-age=60"
_PREVIEW = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()}


@router.get("/v1/loras", responses=ERRORS)
async def list_loras(
    request: Request,
    pipeline: UsedPipeline,
    search: Annotated[str, Query(description="Words that the id or the texts of a LoRA must have.")] = "",
    tag: Annotated[Sequence[str], Query(description="A tag that a LoRA must have; may be repeated.")] = (),
    model: Annotated[str | None, Query(description="Id of a model that a LoRA must go with.")] = None,
) -> LoraList:
    """Return the LoRAs of this server, or those that fit the query."""
    if len(search) > MAX_NAME_CHARS:
        raise InvalidParameter(
            f"search: at most {MAX_NAME_CHARS} characters are read; got {len(search)}.", param="search"
        )
    if len(tag) > _MAX_TAGS:
        raise InvalidParameter(f"tag: at most {_MAX_TAGS} tags are read; got {len(tag)}.", param="tag")
    catalogue = pipeline.catalogue

    def find() -> list[LoraCapabilities]:
        base = None if model is None else catalogue.model(model)
        entries = catalogue.loras.look().find(search, tag, base)
        return lora_capabilities(entries, catalogue.all_models(), request)

    return LoraList(data=await asyncio.to_thread(find))


@router.get("/v1/loras/{lora_id}", responses=ERRORS)
async def get_lora(request: Request, lora_id: str, pipeline: UsedPipeline) -> LoraCapabilities:
    """Return one LoRA of this server."""
    entry = await _entry(pipeline.catalogue, lora_id)
    [lora] = lora_capabilities([entry], await asyncio.to_thread(pipeline.catalogue.all_models), request)
    return lora


@router.get(
    "/v1/loras/{lora_id}/preview",
    responses={**ERRORS, 200: {"content": _PREVIEW}, 304: {}},
    response_class=Response,
)
async def lora_preview(request: Request, lora_id: str, pipeline: UsedPipeline) -> Response:
    """Return the preview image of a LoRA."""
    entry = await _entry(pipeline.catalogue, lora_id)
    data = None if entry.preview is None else await asyncio.to_thread(_read_preview, entry.preview)
    output_format = None if data is None else format_of(data)
    if data is None or output_format is None:
        raise NotFound(f"The LoRA {entry.id!r} has no preview image.")
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": _CACHE_CONTROL, "x-content-type-options": "nosniff"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=MEDIA_TYPES[output_format], headers=headers)


@router.get("/loras")
async def report_loras(request: Request, pipeline: UsedPipeline) -> LoraReport:
    """Return the LoRAs of this server, and the files that are refused, with the reasons."""
    loras = await asyncio.to_thread(pipeline.catalogue.loras.look)
    models = await asyncio.to_thread(pipeline.catalogue.all_models)
    return LoraReport(
        loras=lora_capabilities(loras.by_id.values(), models, request),
        refused=[RefusedLora(file=file.name, reason=file.reason) for file in loras.refused],
    )


def lora_capabilities(
    entries: Iterable[LoraEntry], models: Sequence[ModelEntry], request: Request | None = None
) -> list[LoraCapabilities]:
    """Describe LoRAs; paths of previews are below the prefix of the request, if there is one."""
    return [
        LoraCapabilities(
            id=entry.id,
            title=entry.title,
            description=entry.description,
            author=entry.author,
            licence=entry.licence,
            models=[model.id for model in models if entry.goes_with(model)],
            weight=entry.weight,
            trigger_words=list(entry.trigger_words),
            tags=list(entry.tags),
            rank=entry.rank,
            preview=_preview_path(entry, request),
        )
        for entry in entries
    ]


async def _entry(catalogue: Catalogue, lora_id: str) -> LoraEntry:
    loras = await asyncio.to_thread(catalogue.loras.look)
    return loras.get(lora_id, param="lora_id")


def _preview_path(entry: LoraEntry, request: Request | None) -> str | None:
    if entry.preview is None:
        return None
    path = f"/v1/loras/{quote(entry.id, safe='')}/preview"
    return path if request is None else with_prefix(request, path)


def _read_preview(file: Path) -> bytes | None:
    """Return the bytes of a preview, or None if there is none or it is too large."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_PREVIEW_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= _MAX_PREVIEW_BYTES else None
