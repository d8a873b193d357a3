"""Router: the ingress, which maps HTTP requests and handle calls to the same pipeline methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray import serve
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier.api.app import build_app
from atelier.api.native.inspecting import inspection
from atelier.api.native.status import served
from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.api.openai.translate import edit_params, errors_naming_images, generate_params, variation_params
from atelier.catalogue.catalogue import Catalogue
from atelier.core.params import AnnotateParams, GenerateParams, InspectParams, UpscaleParams
from atelier.pipeline import reading
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord, log_request
from atelier.stores.blobs import BlobStore
from deployments.answers import (
    Answer,
    control_map_answer,
    delivered,
    event_answer,
    images_answer,
    upscaled_answer,
)
from deployments.calls import (
    Sent,
    detached_context,
    read_images_params,
    read_params,
    read_stream_params,
    recorded,
)
from deployments.errors import send_errors_as_fields
from deployments.handles import GraphHandles
from deployments.limits import RouterLimits, changed
from deployments.logs import log_to_serve
from deployments.metrics import RouterMetrics
from deployments.one_node import check_one_node
from deployments.options import RouterOptions
from deployments.readiness import Readiness
from deployments.settings import Settings
from deployments.stages import HandleStages

#: Path of a stored file below the route prefix. Handle calls return the path alone, without a server's address.
_FILE_PATH = "/v1/images/files/{name}"


@serve.ingress()
class Router:
    """The graph's ingress, with one method per operation that other Ray applications may call.

    A method takes the fields of its HTTP route, as a mapping or as an object of `atelier.core.params`, and returns
    plain data. It raises the AtelierError that HTTP would report.
    """

    # Serve awaits the constructor.
    async def __init__(  # type: ignore[misc]
        self, catalogue: Catalogue, options: RouterOptions, handles: GraphHandles
    ) -> None:
        """Start the pipeline and open the store of images.

        Raises ValueError or RuntimeError if ATELIER_BLOBS_URL is wrong, cannot be used, or is a folder that a Router
        on another node does not share.
        """
        log_to_serve()
        send_errors_as_fields()
        self._options = options
        self._limits = limits = RouterLimits()
        handles.prefer_own_node()
        self._metrics = RouterMetrics()
        readiness = Readiness(serve.get_replica_context().app_name)
        self._stages = HandleStages(handles, readiness, limits.of_calls, own_metrics=self._metrics.text)
        self._pipeline = Pipeline(self._stages, catalogue, limits.of_pipeline, new_context=detached_context)
        self._settings = Settings()
        self._blobs = BlobStore(self._settings.blobs_url, ttl=self._settings.blobs_ttl)
        if self._blobs.folder is not None:
            await check_one_node(self._settings.blobs_url)
        await self._blobs.check()
        self._delivery = Delivery(self._blobs, lambda name: _FILE_PATH.format(name=name))
        self._sweeping = asyncio.create_task(self._blobs.sweep())
        self._app = self._new_app()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app(scope, receive, send)

        return app

    def reconfigure(self, user_config: object) -> None:
        """Take the limits in `user_config`, with requests in progress."""
        self._limits = limits = changed(self._limits, user_config)
        self._stages.limits = limits.of_calls
        self._pipeline.set_limits(limits.of_pipeline)
        self._app = self._new_app()

    def _new_app(self) -> ASGIApp:
        return build_app(
            self._pipeline,
            self._blobs,
            max_body_bytes=self._limits.max_body_bytes,
            default_response_format=self._options.default_response_format,
            public_url=self._settings.public_url,
            allowed_origins=self._settings.allowed_origins,
            returns_request_id=False,
            observe=self._observe,
        )

    def _observe(self, record: RequestRecord) -> None:
        log_request(record)
        self._metrics.observe(record)

    async def generate(self, params: Sent) -> Answer:
        """Generate images from the fields of POST /v1/images/generations.

        Returns `images`, `control_maps`, `size`, `usage`, `upscaler`, `exactness_key` and `request_id`. An image has
        the file's bytes as `image`, its `media_type`, `seed` and `parameters`. With `response_format: url` it has the
        file's path on the ingress as `url` instead of `image`.
        """
        with recorded("generate", self._observe) as record:
            asked = read_images_params(ImagesGenerateRequest, params)
            return await self._images(record, asked, generate_params(asked, self._pipeline.catalogue))

    async def edit(self, params: Sent) -> Answer:
        """Edit an image, from the fields of POST /v1/images/edits. Returns what `generate` returns."""
        with recorded("edit", self._observe) as record:
            asked = read_images_params(ImagesEditRequest, params)
            generation = edit_params(asked, self._pipeline.catalogue)
            with errors_naming_images(asked.sent_as):
                return await self._images(record, asked, generation)

    async def variation(self, params: Sent) -> Answer:
        """Vary an image, from the fields of POST /v1/images/variations. Returns what `generate` returns."""
        with recorded("variation", self._observe) as record:
            asked = read_images_params(ImagesVariationRequest, params)
            generation = variation_params(asked, self._pipeline.catalogue)
            with errors_naming_images(asked.sent_as):
                return await self._images(record, asked, generation)

    async def stream(self, params: Sent) -> AsyncGenerator[Answer]:
        """Generate images and yield `planned`, each `step` and `preview` that is asked for, and `result`.

        Takes the fields of POST /v1/images/generations; `progress` asks for steps, `partial_images` for previews. The
        result has the fields that `generate` returns. Cancelling the response stops the work before the next step.
        """
        with recorded("stream", self._observe) as record:
            asked = read_stream_params(params)
            generation = generate_params(asked, self._pipeline.catalogue)
            events = self._pipeline.stream(
                record, generation, report_steps=asked.progress, num_previews=asked.partial_images
            )
            async with aclosing(events):
                async for event in events:
                    yield event_answer(event, generation.output_format)

    async def upscale(self, params: Sent) -> Answer:
        """Enlarge an image, from the fields of POST /v1/images/upscale.

        Returns `image` (with `response_format: url` a `url` instead), `media_type`, `size` and `upscaler`.
        """
        with recorded("upscale", self._observe) as record:
            asked = read_params(UpscaleParams, params)
            upscaled = await self._pipeline.upscale(record, asked)
            file = await delivered(self._delivery, upscaled.data, asked.output_format, asked.response_format)
            return upscaled_answer(upscaled, file, asked.output_format)

    async def annotate(self, params: Sent) -> Answer:
        """Draw a control map, from the fields of POST /v1/images/annotate: `image`, `media_type`, `kind`, `size`."""
        with recorded("annotate", self._observe) as record:
            asked = read_params(AnnotateParams, params)
            return control_map_answer(await self._pipeline.annotate(record, asked))

    async def inspect(self, params: Sent) -> Answer:
        """Read the metadata of an image file. Takes and returns the fields of POST /v1/images/inspect."""
        with recorded("inspect", self._observe):
            asked = read_params(InspectParams, params)
            return (await reading.metadata_of(asked.image, inspection)).model_dump()

    async def models(self) -> Answer:
        """Return the `models` with their defaults, `controlnets` and `upscalers` that are served, as GET / does."""
        with recorded("models", self._observe):
            return served(self._pipeline.catalogue).model_dump()

    async def _images(self, record: RequestRecord, asked: ImagesGenerateRequest, params: GenerateParams) -> Answer:
        result = await self._pipeline.generate(record, params)
        files = [
            await delivered(self._delivery, picture.data, params.output_format, asked.response_format)
            for picture in result.pictures
        ]
        return images_answer(result, files)
