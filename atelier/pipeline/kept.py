"""A result as the cache keeps it: JSON, in which files are named as the store of blobs has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from atelier.core.denoising import RequestId
from atelier.core.jobs import Json
from atelier.core.origin import Origin
from atelier.imaging.formats import read_own_picture
from atelier.pipeline.finish import Drawn
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import ControlMap, Picture, Result, Usage
from atelier.stores.blobs import BlobStore


async def kept(result: Result, files: BlobStore) -> tuple[Json, int]:
    """Store the files of a result, and return the rest with their names, and their size. Raises StoreUnavailable."""
    output_format = result.plan.params.output_format
    images = [await files.put(picture.data, output_format) for picture in result.pictures]
    maps = [{"file": await files.put(one.data, "png"), "kind": one.kind} for one in result.control_maps]
    num_bytes = sum(len(one.data) for one in result.pictures) + sum(len(one.data) for one in result.control_maps)
    fields = {
        "images": [{"file": file, "seed": one.seed} for file, one in zip(images, result.pictures, strict=True)],
        "control_maps": maps,
        "usage": asdict(result.usage),
        "upscaler": result.upscaler,
        "origins": [[origin.place, dict(origin.weights)] for origin in result.provenance.origins],
    }
    return fields, num_bytes


def names_in(kept: Json) -> Iterator[str]:
    """Yield the names of the files of a kept result."""
    fields: dict[str, Any] = dict(kept)
    for one in (*fields["images"], *fields["control_maps"]):
        yield one["file"]


async def read_files(kept: Json, files: BlobStore) -> Mapping[str, bytes] | None:
    """Return the files of a kept result by name, or None if one is gone. Raises StoreUnavailable."""
    names = list(names_in(kept))
    found = await asyncio.gather(*map(files.get, names))
    if any(data is None for data in found):
        return None
    return {name: data for name, data in zip(names, found, strict=True) if data is not None}


def result_of(kept: Json, files: Mapping[str, bytes], request_id: RequestId, plan: Plan) -> Result:
    """Return the result that was kept, as that of another request with the same plan."""
    fields: dict[str, Any] = dict(kept)
    return Result(
        request_id=request_id,
        plan=plan,
        provenance=_provenance(fields),
        pictures=tuple(Picture(data=files[one["file"]], seed=one["seed"]) for one in fields["images"]),
        usage=Usage(**fields["usage"]),
        upscaler=fields["upscaler"],
        control_maps=_control_maps(fields, files),
        is_cached=True,
    )


def drawn_of(kept: Json, files: Mapping[str, bytes], *, is_enlarged: bool) -> Drawn:
    """Return the images of a kept result, whose files are PNGs, to finish them in another way."""
    fields: dict[str, Any] = dict(kept)
    return Drawn(
        images=[read_own_picture(files[one["file"]]) for one in fields["images"]],
        control_maps=_control_maps(fields, files),
        usage=Usage(**fields["usage"]),
        upscalers=() if fields["upscaler"] is None else (fields["upscaler"],),
        provenance=_provenance(fields),
        is_enlarged=is_enlarged,
    )


def _provenance(fields: Mapping[str, Any]) -> Provenance:
    return Provenance(Origin(place, weights) for place, weights in fields["origins"])


def _control_maps(fields: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[ControlMap, ...]:
    return tuple(ControlMap(kind=one["kind"], data=files[one["file"]]) for one in fields["control_maps"])
