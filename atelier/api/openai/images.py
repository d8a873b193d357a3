"""OpenAI's images routes: generations, edits and variations."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from atelier.api.body import form_body, json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.multipart import form_fields
from atelier.api.openai.answers import images_response
from atelier.api.openai.schemas import (
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesResponse,
    ImagesVariationRequest,
)
from atelier.api.openai.streaming import EVENT_SCHEMA, event_stream
from atelier.api.openai.translate import (
    edit_params,
    errors_in_openais_names,
    generate_params,
    parse_openai,
    variation_params,
)
from atelier.api.services import GivenRequestId, UsedDelivery, UsedPipeline
from atelier.core.denoising import RequestId
from atelier.core.params.generate import GenerateParams
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline

router = APIRouter(prefix="/v1", tags=["OpenAI"])

#: OpenAPI responses of routes that may stream.
_STREAMS = {**ERRORS, 200: {"content": {"text/event-stream": {"itemSchema": EVENT_SCHEMA}}}}
_REPEATED = frozenset({"image"})


@router.post(
    "/images/generations",
    responses=_STREAMS,
    openapi_extra=json_body(ImagesGenerateRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def generate_images(
    request: Request, request_id: GivenRequestId, pipeline: UsedPipeline, delivery: UsedDelivery
) -> ImagesResponse | StreamingResponse:
    """Generate images from a prompt, or from a prompt and an image."""
    asked = parse_openai(ImagesGenerateRequest, await json_fields(request))
    params = generate_params(asked, pipeline.catalogue)
    return await _answer(request_id, params, asked, pipeline, delivery, prefix="image_generation")


@router.post(
    "/images/edits",
    responses=_STREAMS,
    openapi_extra=form_body(ImagesEditRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def edit_image(
    request: Request, request_id: GivenRequestId, pipeline: UsedPipeline, delivery: UsedDelivery
) -> ImagesResponse | StreamingResponse:
    """Edit an image by a prompt, inside its mask or everywhere."""
    asked = parse_openai(ImagesEditRequest, await form_fields(request, ImagesEditRequest, lists=_REPEATED))
    params = edit_params(asked, pipeline.catalogue)
    with errors_in_openais_names():
        return await _answer(request_id, params, asked, pipeline, delivery, prefix="image_edit")


@router.post(
    "/images/variations",
    responses=_STREAMS,
    openapi_extra=form_body(ImagesVariationRequest),
    response_model=ImagesResponse,
    response_model_exclude_none=True,
)
async def vary_image(
    request: Request, request_id: GivenRequestId, pipeline: UsedPipeline, delivery: UsedDelivery
) -> ImagesResponse | StreamingResponse:
    """Generate variations of an image."""
    asked = parse_openai(ImagesVariationRequest, await form_fields(request, ImagesVariationRequest, lists=_REPEATED))
    params = variation_params(asked, pipeline.catalogue)
    with errors_in_openais_names():
        return await _answer(request_id, params, asked, pipeline, delivery, prefix="image_variation")


async def _answer(
    request_id: RequestId,
    params: GenerateParams,
    asked: ImagesGenerateRequest,
    pipeline: Pipeline,
    delivery: Delivery,
    *,
    prefix: str,
) -> ImagesResponse | StreamingResponse:
    if asked.stream:
        return await event_stream(request_id, params, asked, pipeline, prefix=prefix)
    return await images_response(await pipeline.generate(request_id, params), asked, delivery)
