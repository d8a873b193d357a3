"""The routes of the cache of results: its numbers, and its clearing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from atelier.api.body import json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.services import UsedPipeline
from atelier.core.errors import NotSupported
from atelier.core.params import Params, parse
from atelier.pipeline.cache import ResultCache

router = APIRouter(prefix="/api/cache", tags=["Atelier"])

_S_PER_DAY = 24 * 3600


class CacheStats(BaseModel):
    """Numbers of the cache, of all Routers and Workers together."""

    hits: int = Field(description="Requests that were answered from it, or begun with an image in it.")
    misses: int
    entries: int
    size_bytes: int = Field(description="Size of all images in it.")
    max_bytes: int = Field(description="Size that it may have; 0 if it is switched off.")


class ClearCacheParams(Params):
    """POST /api/cache/clear"""

    max_age_days: float = Field(0, ge=0, description="Age in days from which on results are deleted; 0 deletes all.")


class ClearedCache(BaseModel):
    """What was deleted."""

    deleted: int = Field(description="Number of results that were deleted.")


async def _cache(pipeline: UsedPipeline) -> ResultCache:
    if pipeline.cache is None:
        raise NotSupported("This server has no cache of results.")
    return pipeline.cache


_UsedCache = Annotated[ResultCache, Depends(_cache)]


@router.get("/stats", responses=ERRORS)
async def cache_stats(cache: _UsedCache) -> CacheStats:
    """Return the numbers of the cache of results."""
    stats = await cache.stats()
    return CacheStats(
        hits=stats.hits,
        misses=stats.misses,
        entries=stats.entries,
        size_bytes=stats.num_bytes,
        max_bytes=cache.max_bytes,
    )


@router.post("/clear", responses=ERRORS, openapi_extra=json_body(ClearCacheParams))
async def clear_cache(request: Request, cache: _UsedCache) -> ClearedCache:
    """Delete results from the cache: all of them, or those that have at least an age."""
    asked = parse(ClearCacheParams, await json_fields(request))
    return ClearedCache(deleted=await cache.clear(max_age_s=asked.max_age_days * _S_PER_DAY))
