"""Our own images routes: annotate, upscale and inspect."""

from __future__ import annotations

import base64
import time

from fastapi import APIRouter, Request

from atelier.api.body import either_body, json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.multipart import form_or_json_fields
from atelier.api.native.inspecting import Inspection, inspection
from atelier.api.native.schemas import EnhancedMedia, EnhanceParams, UpscaleResponse
from atelier.api.request_log import record_of
from atelier.api.schemas import ControlMap, File, control_map
from atelier.api.services import UsedDelivery, UsedPipeline
from atelier.core.params import AnnotateParams, InspectParams, UpscaleParams, parse
from atelier.core.upscaling import BICUBIC
from atelier.pipeline import reading

router = APIRouter(tags=["Atelier"])


@router.post("/v1/images/annotate", responses=ERRORS, openapi_extra=either_body(AnnotateParams))
async def annotate_image(request: Request, pipeline: UsedPipeline) -> ControlMap:
    """Draw the control map of an image that a ControlNet reads."""
    asked = parse(AnnotateParams, await form_or_json_fields(request, AnnotateParams))
    return control_map(await pipeline.annotate(record_of(request.scope), asked))


@router.post(
    "/v1/images/upscale",
    responses=ERRORS,
    openapi_extra=either_body(UpscaleParams),
    response_model_exclude_none=True,
)
async def upscale_image(request: Request, pipeline: UsedPipeline, delivery: UsedDelivery) -> UpscaleResponse:
    """Upscale an image by a factor of up to four."""
    asked = parse(UpscaleParams, await form_or_json_fields(request, UpscaleParams))
    upscaled = await pipeline.upscale(record_of(request.scope), asked)
    file = await delivery.deliver(upscaled.data, asked.output_format, asked.response_format)
    return UpscaleResponse(
        created=int(time.time()),
        data=[File(b64_json=file.b64_json, url=file.url)],
        output_format=asked.output_format,
        size=str(upscaled.size),
        upscaler=upscaled.upscaler,
    )


@router.post("/v1/images/inspect", responses=ERRORS, openapi_extra=either_body(InspectParams))
async def inspect_image(request: Request) -> Inspection:
    """Return the generation parameters in an image file's metadata."""
    asked = parse(InspectParams, await form_or_json_fields(request, InspectParams))
    return await reading.metadata_of(asked.image, inspection)


@router.post("/enhance-media", responses=ERRORS, openapi_extra=json_body(EnhanceParams))
async def enhance_media(request: Request, pipeline: UsedPipeline) -> EnhancedMedia:
    """Upscale an image by a factor of up to four and return it as a data URL."""
    asked = parse(EnhanceParams, await json_fields(request))
    params = UpscaleParams(image=asked.image, scale=asked.scale, model=asked.model)
    upscaled = await pipeline.upscale(record_of(request.scope), params)
    return EnhancedMedia(
        image=f"data:image/png;base64,{base64.b64encode(upscaled.data).decode('ascii')}",
        width=upscaled.size.width,
        height=upscaled.size.height,
        scale=asked.scale,
        model=upscaled.upscaler,
        is_fallback=upscaled.upscaler == BICUBIC,
    )
