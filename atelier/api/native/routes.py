"""Routes of our own: what this server is, whether it lives, whether it is ready."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from atelier.api.native.unbuilt import UNBUILT
from atelier.core.control import ControlKind
from atelier.core.params import OUTPUT_FORMATS, GenerateParams
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
    parameters: list[str]
    output_formats: list[str]
    #: Addresses that answer 501 for now.
    not_supported: list[str]
    documentation: Literal["/docs"] = "/docs"


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
            controlnets=[
                ControlNetCapabilities(
                    id=entry.id,
                    description=entry.description,
                    licence=entry.licence,
                    kind=entry.kind,
                    base=entry.base,
                    scale=entry.scale,
                )
                for entry in pipeline.catalogue.controlnets
            ],
            parameters=list(GenerateParams.model_fields),
            output_formats=list(OUTPUT_FORMATS),
            not_supported=[f"{route.method} {route.path}" for route in UNBUILT],
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
