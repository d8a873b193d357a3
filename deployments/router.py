"""Router: the ingress, which maps HTTP requests and handle calls to the same pipeline methods."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ray import serve
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.api.openai.schemas import ImagesParams
from atelier.api.openai.translate import generate_params, parse_openai
from atelier.api.request_id import new_request_id
from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams, parse
from atelier.imaging.formats import MEDIA_TYPES
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from deployments.handles import GraphHandles
from deployments.options import RouterOptions
from deployments.readiness import Readiness
from deployments.settings import Settings
from deployments.stages import HandleStages

#: Path of a stored file below the route prefix. Handle calls return the path alone, without a server's address.
_FILE_PATH = "/v1/images/files/{name}"


@serve.ingress()
class Router:
    """The graph's ingress, with one method per operation that other Ray applications may call."""

    def __init__(self, catalogue: Catalogue, options: RouterOptions, handles: GraphHandles) -> None:
        self._options = options
        self._pipeline = Pipeline(
            HandleStages(handles, Readiness(serve.get_replica_context().app_name)),
            catalogue,
            max_pixel_steps=options.max_pixel_steps,
            max_wait_s=options.max_wait_s,
        )
        self._settings = Settings()
        self._blobs = BlobStore(self._settings.blobs_url, ttl=self._settings.blobs_ttl)
        self._delivery = Delivery(self._blobs, lambda name: _FILE_PATH.format(name=name))
        self._sweeping = asyncio.create_task(self._blobs.sweep())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(
            self._pipeline,
            self._blobs,
            max_body_bytes=self._options.max_body_bytes,
            public_url=self._settings.public_url,
            allowed_origins=self._settings.allowed_origins,
            returns_request_id=False,
        )

    async def annotate(self, params: Mapping[str, object]) -> bytes:
        """Draw an image's control map as a PNG, from the fields of POST /v1/images/annotate. Raises AtelierError."""
        return (await self._pipeline.annotate(parse(AnnotateParams, params))).data

    async def upscale(self, params: Mapping[str, object]) -> dict[str, object]:
        """Enlarge an image, from the fields of POST /v1/images/upscale.

        The answer has the file's bytes as `image`, or with `response_format: url` its path on the ingress as `url`.
        Raises AtelierError.
        """
        asked = parse(UpscaleParams, params)
        upscaled = await self._pipeline.upscale(asked)
        answer: dict[str, object] = {
            "media_type": MEDIA_TYPES[asked.output_format],
            "upscaler": upscaled.upscaler,
        }
        if asked.response_format == "b64_json":
            return {"image": upscaled.data, **answer}
        file = await self._delivery.deliver(upscaled.data, asked.output_format, asked.response_format)
        return {"url": file.url, **answer}

    async def generate(self, params: Mapping[str, object] | GenerateParams) -> dict[str, object]:
        """Generate images from the fields of POST /v1/images/generations; returns plain Python data.

        Raises the AtelierError that HTTP would report; see `atelier.core.errors`.
        """
        if not isinstance(params, GenerateParams):
            params = generate_params(parse_openai(ImagesParams, params), self._pipeline.catalogue)
        result = await self._pipeline.generate(new_request_id(), params)
        return {
            "control_maps": [{"kind": drawn.kind, "image": drawn.data} for drawn in result.control_maps],
            "request_id": result.request_id,
            "exactness_key": result.exactness_key,
            "upscaler": result.upscaler,
            "images": [
                {
                    "image": picture.data,
                    "media_type": MEDIA_TYPES[result.plan.params.output_format],
                    "seed": picture.seed,
                    "parameters": result.plan.parameters(picture.seed),
                }
                for picture in result.pictures
            ],
        }
