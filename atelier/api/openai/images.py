"""OpenAI's images routes: generations, edits and variations."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from atelier.api.body import either_body, json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.multipart import form_or_json_fields
from atelier.api.openai.answers import images_response
from atelier.api.openai.files import ZIP, file_response
from atelier.api.openai.schemas import (
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesResponse,
    ImagesVariationRequest,
)
from atelier.api.openai.streaming import event_stream
from atelier.api.openai.translate import (
    edit_params,
    errors_naming_images,
    generate_params,
    parse_openai,
    variation_params,
)
from atelier.api.schemas import EVENT_SCHEMA
from atelier.api.services import Call, GivenCall
from atelier.core.params.generate import GenerateParams
from atelier.imaging.formats import MEDIA_TYPES

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_FILE = {"schema": {"type": "string", "format": "binary"}}
#: OpenAPI responses of routes that may answer with a stream or with files.
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    200: {
        "content": {
            "text/event-stream": {"itemSchema": EVENT_SCHEMA},
            **dict.fromkeys((*MEDIA_TYPES.values(), ZIP), _FILE),
        }
    },
}
#: Fields of forms that may be repeated.
_REPEATED = frozenset({"image", "images"})


@router.post(
    "/images/generations",
    responses=_ANSWERS,
    openapi_extra=json_body(ImagesGenerateRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def generate_images(request: Request, call: GivenCall) -> ImagesResponse | Response:
    """Generate images from a prompt, or from a prompt and an image."""
    with call.pipeline.arriving():
        asked = parse_openai(ImagesGenerateRequest, await json_fields(request))
    params = generate_params(asked, call.pipeline.catalogue)
    return await _answer(call, params, asked, prefix="image_generation")


@router.post(
    "/images/edits",
    responses=_ANSWERS,
    openapi_extra=either_body(ImagesEditRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def edit_image(request: Request, call: GivenCall) -> ImagesResponse | Response:
    """Edit an image by a prompt, inside its mask or everywhere."""
    with call.pipeline.arriving():
        asked = parse_openai(
            ImagesEditRequest, await form_or_json_fields(request, ImagesEditRequest, lists=_REPEATED)
        )
    params = edit_params(asked, call.pipeline.catalogue)
    with errors_naming_images(asked.sent_as):
        return await _answer(call, params, asked, prefix="image_edit")


@router.post(
    "/images/variations",
    responses=_ANSWERS,
    openapi_extra=either_body(ImagesVariationRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def vary_image(request: Request, call: GivenCall) -> ImagesResponse | Response:
    """Generate variations of an image."""
    with call.pipeline.arriving():
        fields = await form_or_json_fields(request, ImagesVariationRequest, lists=_REPEATED)
        asked = parse_openai(ImagesVariationRequest, fields)
    params = variation_params(asked, call.pipeline.catalogue)
    with errors_naming_images(asked.sent_as):
        return await _answer(call, params, asked, prefix="image_variation")


async def _answer(
    call: Call, params: GenerateParams, asked: ImagesGenerateRequest, *, prefix: str
) -> ImagesResponse | Response:
    params = await call.settled(params)
    if asked.stream:
        return await event_stream(call.record, params, asked, call.pipeline, prefix=prefix)
    result = await call.pipeline.generate(call.record, params)
    answer_format = asked.delivered_as(call.default_response_format)
    if answer_format == "file":
        return await asyncio.to_thread(file_response, result)
    return await images_response(result, asked, call.delivery, answer_format)
