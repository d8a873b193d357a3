"""Routes of our own: what this server is, whether it lives, whether it is ready."""

from __future__ import annotations

import base64
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from atelier.api.body import json_body, json_fields
from atelier.api.errors import ERRORS
from atelier.api.native.unbuilt import UNBUILT
from atelier.core.control import ControlKind
from atelier.core.params import OUTPUT_FORMATS, GenerateParams, PictureBytes, UpscaleParams, UpscaleStep, parse
from atelier.core.upscaling import BICUBIC
from atelier.pipeline.pipeline import Pipeline

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class ModelCapabilities(BaseModel):
    id: str
    description: str
    licence: str
    default_size: str
    min_side_px: int
    max_side_px: int
    num_inference_steps: int
    guidance_scale: float


class ControlNetCapabilities(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    description: str
    licence: str
    kind: ControlKind
    #: The model it goes with, and its recommended scale.
    base: str
    scale: float


class Capabilities(BaseModel):
    name: Literal["Atelier"] = "Atelier"
    models: list[ModelCapabilities]
    controlnets: list[ControlNetCapabilities]
    upscalers: list[UpscalerCapabilities]
    parameters: list[str]
    output_formats: list[str]
    #: Addresses that answer 501 for now.
    not_supported: list[str]
    documentation: Literal["/docs"] = "/docs"


class EnhanceParams(UpscaleStep):
    """POST /enhance-media"""

    image: PictureBytes = Field(description="A data URL, or base64 alone.")


class EnhancedMedia(BaseModel):
    image: str = Field(description="A PNG as a data URL.")
    width: int
    height: int
    scale: float
    model: str
    is_fallback: bool = Field(description="True if there were no weights, and it is bicubic.")


class UpscalerCapabilities(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    description: str
    licence: str
    has_weights: bool


class Status(BaseModel):
    status: Literal["ok", "not ready"]


def native_routes(pipeline: Pipeline) -> APIRouter:
    routes = APIRouter(tags=["Atelier"])

    @routes.get("/")
    async def capabilities() -> Capabilities:
        """What this server can do."""
        return Capabilities(
            models=[
                ModelCapabilities(
                    id=entry.id,
                    description=entry.description,
                    licence=entry.licence,
                    default_size=str(entry.defaults.size),
                    min_side_px=entry.sides_px.min,
                    max_side_px=entry.sides_px.max,
                    num_inference_steps=entry.defaults.num_inference_steps,
                    guidance_scale=entry.defaults.guidance_scale,
                )
                for entry in pipeline.catalogue.models
            ],
            controlnets=[ControlNetCapabilities.model_validate(entry) for entry in pipeline.catalogue.controlnets],
            upscalers=[UpscalerCapabilities.model_validate(entry) for entry in pipeline.catalogue.upscalers],
            parameters=list(GenerateParams.model_fields),
            output_formats=list(OUTPUT_FORMATS),
            not_supported=[f"{route.method} {route.path}" for route in UNBUILT],
        )

    @routes.post("/enhance-media", responses=ERRORS, openapi_extra=json_body(EnhanceParams))
    async def enhance_media(request: Request) -> EnhancedMedia:
        """A picture up to four times larger, as a data URL."""
        asked = parse(EnhanceParams, await json_fields(request))
        enlarged = await pipeline.upscale(UpscaleParams(image=asked.image, scale=asked.scale, model=asked.model))
        return EnhancedMedia(
            image=f"data:image/png;base64,{base64.b64encode(enlarged.data).decode('ascii')}",
            width=enlarged.size.width,
            height=enlarged.size.height,
            scale=asked.scale,
            model=enlarged.made_by,
            is_fallback=enlarged.made_by == BICUBIC,
        )

    @routes.get("/health")
    async def health() -> Status:
        """This router is alive."""
        return Status(status="ok")

    @routes.get("/ready", responses={503: {"model": Status}})
    async def ready(response: Response) -> Status:
        """Every part of the graph answers."""
        if await pipeline.stages.are_ready():
            return Status(status="ok")
        response.status_code = 503
        return Status(status="not ready")

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Live numbers of the step loops, for Prometheus."""
        return PlainTextResponse(await pipeline.stages.metrics_text(), media_type=_PROMETHEUS)

    return routes
