"""Between OpenAI's dialect and the pipeline's."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from starlette.requests import Request

from atelier.api.openai.schemas import (
    ControlMap,
    File,
    Image,
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesResponse,
    ImagesVariationRequest,
    InputTokens,
    Model,
    OutputTokens,
    UpscaleResponse,
    Usage,
)
from atelier.catalogue.entries import ModelEntry
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.params import GenerateParams, OutputFormat, UpscaleParams
from atelier.pipeline.results import ControlMap as Drawn
from atelier.pipeline.results import Picture, Result
from atelier.pipeline.results import Usage as Used
from atelier.pipeline.upscaling import Enlarged
from atelier.stores.blobs import BlobStore

_OPENAIS_NAMES = {"init_image": "image", "mask_image": "mask", "markup_image": "markup"}
#: Strength of an edit that asks for high input fidelity.
_HIGH_FIDELITY = 0.5


def edit_params(request: ImagesEditRequest) -> GenerateParams:
    """Raises NotSupported for more than one picture: there is nothing yet that could see the others."""
    if len(request.image) > 1:
        raise NotSupported("Editing with several pictures is not supported by this server yet.", param="image")
    for theirs, ours in (("mask", "mask_image"), ("markup", "markup_image")):
        if getattr(request, theirs) is not None and getattr(request, ours) is not None:
            raise InvalidParameter(f"{theirs}: {ours} is the same; send one of them.", param=theirs)
    strength = _HIGH_FIDELITY if request.input_fidelity == "high" and request.strength is None else request.strength
    pictures = {
        "mask_image": request.mask_image if request.mask is None else request.mask,
        "markup_image": request.markup_image if request.markup is None else request.markup,
    }
    return _params(request, {**pictures, "strength": strength})


def variation_params(request: ImagesVariationRequest) -> GenerateParams:
    return _params(request, {})


@contextmanager
def errors_in_openais_names() -> Iterator[None]:
    """Name the fields of a form as its client does, where the pipeline has names of its own."""
    try:
        yield
    except InvalidParameter as error:
        theirs = _OPENAIS_NAMES.get(error.param or "")
        if theirs is None:
            raise
        message = str(error)
        for ours, name in _OPENAIS_NAMES.items():
            message = message.replace(ours, name)
        raise InvalidParameter(message, param=theirs) from error


def _params(
    request: ImagesEditRequest | ImagesVariationRequest, changed: Mapping[str, bytes | float | None]
) -> GenerateParams:
    if request.init_image is not None:
        raise InvalidParameter("init_image: here the picture is sent as image.", param="init_image")
    fields = {name: getattr(request, name) for name in GenerateParams.model_fields}
    return GenerateParams.model_construct(**{**fields, "init_image": request.image[0], **changed})


async def images_response(
    result: Result, asked: ImagesGenerateRequest, *, blobs: BlobStore, request: Request
) -> ImagesResponse:
    async def image(picture: Picture) -> Image:
        file = await _file(picture.data, result.plan.output_format, asked.response_format, blobs, request)
        return Image(seed=picture.seed, parameters=result.plan.parameters(picture.seed), **file)

    return ImagesResponse(
        created=int(time.time()),
        data=[await image(picture) for picture in result.pictures],
        output_format=result.plan.output_format,
        size=str(result.plan.picture_size),
        upscaler=result.upscaler,
        quality=result.plan.quality,
        usage=usage(result.usage),
        safety_identifier=asked.label,
        control_maps=[control_map(drawn) for drawn in result.control_maps] or None,
        exactness_key=result.exactness_key,
    )


async def upscale_response(
    enlarged: Enlarged, asked: UpscaleParams, *, blobs: BlobStore, request: Request
) -> UpscaleResponse:
    file = await _file(enlarged.data, asked.output_format, asked.response_format, blobs, request)
    return UpscaleResponse(
        created=int(time.time()),
        data=[File(**file)],
        output_format=asked.output_format,
        size=str(enlarged.size),
        upscaler=enlarged.made_by,
    )


async def _file(
    data: bytes,
    output_format: OutputFormat,
    response_format: Literal["b64_json", "url"],
    blobs: BlobStore,
    request: Request,
) -> dict[str, str]:
    if response_format == "b64_json":
        return {"b64_json": base64.b64encode(data).decode("ascii")}
    name = await blobs.put(data, output_format)
    return {"url": str(request.url_for("picture_file", name=name))}


def usage(used: Used) -> Usage:
    return Usage(
        input_tokens=used.text_tokens + used.input_image_tokens,
        input_tokens_details=InputTokens(text_tokens=used.text_tokens, image_tokens=used.input_image_tokens),
        output_tokens=used.output_image_tokens,
        output_tokens_details=OutputTokens(image_tokens=used.output_image_tokens),
        total_tokens=used.text_tokens + used.input_image_tokens + used.output_image_tokens,
    )


def control_map(drawn: Drawn) -> ControlMap:
    return ControlMap(kind=drawn.kind, b64_json=base64.b64encode(drawn.data).decode("ascii"))


def model(entry: ModelEntry) -> Model:
    return Model(id=entry.id, created=entry.created_unix_s, owned_by=entry.owned_by)
