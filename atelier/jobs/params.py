"""The params of a job as JSON. Input images are blobs, which the params name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from atelier.core.errors import NotFound
from atelier.core.jobs import Json, Operation
from atelier.core.params import AnnotateParams, DownloadParams, GenerateParams, Params, UpscaleParams, parse
from atelier.imaging.formats import format_of
from atelier.stores.blobs import BlobStore

#: The params of each operation, as the pipeline or the hub takes them.
_KINDS: Mapping[Operation, type[Params]] = {
    "generate": GenerateParams,
    "edit": GenerateParams,
    "variation": GenerateParams,
    "upscale": UpscaleParams,
    "annotate": AnnotateParams,
    "download": DownloadParams,
}
#: Key of an object that stands for an input image.
_BLOB = "blob"


async def stored(params: Params, blobs: BlobStore) -> Json:
    """Store the input images, and return the fields that `loaded` reads. Raises StoreUnavailable."""
    return {name: await _named(value, blobs) for name, value in _fields(params).items()}


async def loaded(operation: Operation, fields: Json, blobs: BlobStore) -> Params:
    """Return the params of a job with their images. Raises NotFound if one is gone, and StoreUnavailable."""
    return parse(_KINDS[operation], {name: await _read(value, blobs) for name, value in fields.items()})


def blobs_in(value: object) -> Iterator[str]:
    """Yield the names of the images in the fields that `stored` has returned."""
    if isinstance(value, Mapping):
        if value.keys() == {_BLOB}:
            yield str(value[_BLOB])
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from blobs_in(one)


def _fields(params: Params) -> dict[str, object]:
    """Return all fields that are set, also those that are no part of an image's metadata."""
    fields = params.model_dump(exclude_none=True)
    for name, field in type(params).model_fields.items():
        value = getattr(params, name)
        if isinstance(value, tuple):
            fields[name] = [_fields(one) for one in value]
        elif field.exclude and value is not None:
            fields[name] = value
    return fields


async def _named(value: object, blobs: BlobStore) -> object:
    if isinstance(value, bytes):
        suffix = format_of(value)
        assert suffix is not None, "the pipeline has checked the formats of all images"
        return {_BLOB: await blobs.put(value, suffix)}
    if isinstance(value, Mapping):
        return {name: await _named(one, blobs) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [await _named(one, blobs) for one in value]
    return value


async def _read(value: object, blobs: BlobStore) -> object:
    if isinstance(value, Mapping):
        if value.keys() == {_BLOB}:
            data = await blobs.get(str(value[_BLOB]))
            if data is None:
                raise NotFound("An input image of this job is not stored any more.")
            return data
        return {name: await _read(one, blobs) for name, one in value.items()}
    if isinstance(value, list):
        return [await _read(one, blobs) for one in value]
    return value
