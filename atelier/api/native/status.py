"""Our own routes about the server: what it can do, whether it is alive and ready, live numbers."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from atelier.api.docs import DOCS
from atelier.api.native.loras import lora_capabilities
from atelier.api.native.schemas import (
    Capabilities,
    ControlNetCapabilities,
    ModelCapabilities,
    Served,
    Status,
    UpscalerCapabilities,
)
from atelier.api.native.unbuilt import UNBUILT
from atelier.api.openai.schemas import ImagesParams
from atelier.api.prefix import with_prefix
from atelier.api.services import UsedPipeline
from atelier.catalogue.capabilities import Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.params import OUTPUT_FORMATS

router = APIRouter(tags=["Atelier"])

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/")
async def capabilities(request: Request, pipeline: UsedPipeline) -> Capabilities:
    """Return the models, ControlNets, LoRAs, upscalers and features that this server offers."""
    return Capabilities(
        **dict(await served(pipeline.catalogue, request)),
        parameters=list(ImagesParams.model_fields),
        output_formats=list(OUTPUT_FORMATS),
        not_supported=[f"{route.method} {route.path}" for route in UNBUILT],
        documentation=with_prefix(request, DOCS),
    )


async def served(catalogue: Catalogue, request: Request | None = None) -> Served:
    """Return the models with their defaults, the ControlNets, LoRAs and upscalers of a catalogue."""
    loras = await asyncio.to_thread(catalogue.loras.look)
    models = await asyncio.to_thread(catalogue.all_models)
    return Served(
        models=[_model(entry, Supported.of(entry, catalogue, loras)) for entry in models],
        controlnets=[ControlNetCapabilities.model_validate(entry) for entry in catalogue.controlnets],
        loras=lora_capabilities(loras.by_id.values(), models, request),
        upscalers=[UpscalerCapabilities.model_validate(entry) for entry in catalogue.upscalers],
    )


@router.get("/health")
async def health() -> Status:
    """Return 200 as long as this Router is alive."""
    return Status(status="ok")


@router.get("/ready", responses={503: {"model": Status}})
async def ready(response: Response, pipeline: UsedPipeline) -> Status:
    """Return 200 if every deployment of the graph responds, otherwise 503."""
    if await pipeline.stages.check_ready():
        return Status(status="ok")
    response.status_code = 503
    return Status(status="not ready")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(pipeline: UsedPipeline) -> PlainTextResponse:
    """Return live metrics of the denoising engines in Prometheus' text format."""
    return PlainTextResponse(await pipeline.stages.metrics_text(), media_type=_PROMETHEUS)


def _model(entry: ModelEntry, supported: Supported) -> ModelCapabilities:
    return ModelCapabilities(
        id=entry.id,
        description=entry.description,
        licence=entry.licence,
        default_size=str(entry.defaults.size),
        min_side_px=entry.sides_px.min,
        max_side_px=entry.sides_px.max,
        num_inference_steps=entry.defaults.num_inference_steps,
        guidance_scale=entry.defaults.guidance_scale,
        family=entry.family,
        capabilities=dict(supported.by_name),
    )
