"""Router: the ingress. HTTP and handle calls become the same calls of the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ray import serve
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams, parse
from atelier.imaging.formats import MEDIA_TYPES
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from deployments.handles import GraphHandles
from deployments.options import RouterOptions
from deployments.settings import Settings
from deployments.stages import HandleStages


@serve.ingress()
class Router:
    def __init__(self, catalogue: Catalogue, options: RouterOptions, handles: GraphHandles) -> None:
        stages = HandleStages(handles)
        self._options = options
        self._pipeline = Pipeline(stages, catalogue, max_pixel_steps=options.max_pixel_steps)
        settings = Settings()
        self._blobs = BlobStore(settings.blobs_url, ttl=settings.blobs_ttl)
        self._sweeping = asyncio.create_task(self._blobs.sweep())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(self._pipeline, self._blobs, max_body_bytes=self._options.max_body_bytes)

    async def annotate(self, params: Mapping[str, object]) -> bytes:
        """A control map as a PNG, from the fields of POST /v1/images/annotate. Raises AtelierError."""
        return (await self._pipeline.annotate(parse(AnnotateParams, params))).data

    async def upscale(self, params: Mapping[str, object]) -> dict[str, object]:
        """A picture made larger, from the fields of POST /v1/images/upscale. Raises AtelierError."""
        asked = parse(UpscaleParams, params)
        enlarged = await self._pipeline.upscale(asked)
        return {
            "image": enlarged.data,
            "media_type": MEDIA_TYPES[asked.output_format],
            "upscaler": enlarged.made_by,
        }

    async def generate(self, params: Mapping[str, object] | GenerateParams) -> dict[str, object]:
        """Pictures from a text: the fields of POST /v1/images/generations in, plain data out.

        Raises:
            AtelierError: as HTTP answers it; see `atelier.core.errors`.
        """
        if not isinstance(params, GenerateParams):
            params = parse(GenerateParams, params)
        result = await self._pipeline.generate(params)
        return {
            "control_maps": [{"kind": drawn.kind, "image": drawn.data} for drawn in result.control_maps],
            "request_id": result.request_id,
            "exactness_key": result.exactness_key,
            "upscaler": result.upscaler,
            "images": [
                {
                    "image": picture.data,
                    "media_type": MEDIA_TYPES[result.plan.output_format],
                    "seed": picture.seed,
                    "parameters": result.plan.parameters(picture.seed),
                }
                for picture in result.pictures
            ],
        }
