"""OpenAI's routes: images and models."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from atelier.api.body import either_body, form_body, json_body, json_fields
from atelier.api.errors import ERRORS, ErrorResponse
from atelier.api.multipart import form_fields, is_form
from atelier.api.openai.inspecting import Inspection, file_headers, inspection
from atelier.api.openai.schemas import (
    ControlMap,
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesResponse,
    ImagesVariationRequest,
    Model,
    ModelList,
    UpscaleResponse,
)
from atelier.api.openai.streaming import event_stream
from atelier.api.openai.translate import (
    control_map,
    edit_params,
    errors_in_openais_names,
    images_response,
    model,
    upscale_response,
    variation_params,
)
from atelier.core.errors import Forbidden, NotFound
from atelier.core.params import AnnotateParams, GenerateParams, InspectParams, Params, UpscaleParams, parse
from atelier.imaging.formats import MEDIA_TYPES
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore

#: Of what may stream.
_STREAMS = {**ERRORS, 200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
_FILES = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()}
_PICTURE_LISTS = frozenset({"image"})


async def _fields(request: Request, kind: type[Params]) -> Mapping[str, object]:
    """Of a form with an upload, or of JSON with base64."""
    if is_form(request):
        return await form_fields(request, kind, lists=frozenset())
    return await json_fields(request)


def openai_routes(pipeline: Pipeline, blobs: BlobStore) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])

    async def answer(
        params: GenerateParams, asked: ImagesGenerateRequest, request: Request, *, prefix: str
    ) -> ImagesResponse | StreamingResponse:
        if asked.stream:
            return await event_stream(pipeline, params, asked, prefix=prefix)
        return await images_response(await pipeline.generate(params), asked, blobs=blobs, request=request)

    @routes.post(
        "/images/generations",
        responses=_STREAMS,
        openapi_extra=json_body(ImagesGenerateRequest),
        response_model=ImagesResponse,
        response_model_exclude_none=True,
    )
    async def generate_images(request: Request) -> ImagesResponse | StreamingResponse:
        """Pictures from a text, or from a text and a picture."""
        asked = parse(ImagesGenerateRequest, await json_fields(request))
        return await answer(asked, asked, request, prefix="image_generation")

    @routes.post(
        "/images/edits",
        responses=_STREAMS,
        openapi_extra=form_body(ImagesEditRequest),
        response_model=ImagesResponse,
        response_model_exclude_none=True,
    )
    async def edit_image(request: Request) -> ImagesResponse | StreamingResponse:
        """A picture painted anew: where its mask says, or all of it after a text."""
        asked = parse(ImagesEditRequest, await form_fields(request, ImagesEditRequest, lists=_PICTURE_LISTS))
        params = edit_params(asked)
        with errors_in_openais_names():
            return await answer(params, asked, request, prefix="image_edit")

    @routes.post(
        "/images/variations",
        responses=_STREAMS,
        openapi_extra=form_body(ImagesVariationRequest),
        response_model=ImagesResponse,
        response_model_exclude_none=True,
    )
    async def vary_image(request: Request) -> ImagesResponse | StreamingResponse:
        """Pictures like a picture."""
        asked = parse(
            ImagesVariationRequest, await form_fields(request, ImagesVariationRequest, lists=_PICTURE_LISTS)
        )
        params = variation_params(asked)
        with errors_in_openais_names():
            return await answer(params, asked, request, prefix="image_variation")

    @routes.post("/images/annotate", responses=ERRORS, openapi_extra=either_body(AnnotateParams))
    async def annotate_image(request: Request) -> ControlMap:
        """The map that a ControlNet reads, drawn from a picture."""
        asked = parse(AnnotateParams, await _fields(request, AnnotateParams))
        return control_map(await pipeline.annotate(asked))

    @routes.get("/images/files/{name}", responses={**ERRORS, 200: {"content": _FILES}}, response_class=Response)
    async def picture_file(name: str) -> Response:
        """A picture that was answered with its URL."""
        data = await blobs.get(name)
        if data is None:
            raise NotFound(f"There is no picture {name!r}, or its time is over.")
        media_type = next(media for suffix, media in MEDIA_TYPES.items() if name.endswith(suffix))
        return Response(data, media_type=media_type, headers=await asyncio.to_thread(file_headers, data, name))

    @routes.post(
        "/images/upscale",
        responses=ERRORS,
        openapi_extra=either_body(UpscaleParams),
        response_model_exclude_none=True,
    )
    async def upscale_image(request: Request) -> UpscaleResponse:
        """A picture up to four times larger."""
        asked = parse(UpscaleParams, await _fields(request, UpscaleParams))
        enlarged = await pipeline.upscale(asked)
        return await upscale_response(enlarged, asked, blobs=blobs, request=request)

    @routes.post("/images/inspect", responses=ERRORS, openapi_extra=either_body(InspectParams))
    async def inspect_image(request: Request) -> Inspection:
        """How a picture was made, as its file tells."""
        asked = parse(InspectParams, await _fields(request, InspectParams))
        return await asyncio.to_thread(inspection, asked.image)

    @routes.get("/models")
    async def list_models() -> ModelList:
        return ModelList(data=[model(entry) for entry in pipeline.catalogue.models])

    @routes.get("/models/{model_id:path}", responses=ERRORS)
    async def get_model(model_id: str) -> Model:
        return model(pipeline.catalogue.model(model_id))

    @routes.delete("/models/{model_id:path}", responses=ERRORS, status_code=403)
    async def delete_model(model_id: str) -> ErrorResponse:
        """Models come and go with the server's catalogue."""
        pipeline.catalogue.model(model_id)
        raise Forbidden(f"{model_id} is part of this server's catalogue and cannot be deleted by a client.")

    return routes
