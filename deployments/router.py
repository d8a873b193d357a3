"""Router: the ingress, which maps HTTP requests and handle calls to the same pipeline methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ray import serve
from starlette.types import ASGIApp

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
from atelier.stores.blobs import BlobStore
from deployments.answers import (
    Answer,
    control_map_answer,
    delivered,
    event_answer,
    images_answer,
    upscaled_answer,
)
from deployments.calls import Sent, call_id, read_images_params, read_params, read_stream_params
from deployments.errors import as_atelier_errors, send_errors_as_fields
from deployments.handles import GraphHandles
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
        send_errors_as_fields()
        self._options = options
        self._pipeline = Pipeline(
            HandleStages(handles, Readiness(serve.get_replica_context().app_name)),
            catalogue,
            max_pixel_steps=options.max_pixel_steps,
            max_wait_s=options.max_wait_s,
        )
        self._settings = Settings()
        self._blobs = BlobStore(self._settings.blobs_url, ttl=self._settings.blobs_ttl)
        if self._blobs.folder is not None:
            await check_one_node(self._settings.blobs_url)
        await self._blobs.check()
        self._delivery = Delivery(self._blobs, lambda name: _FILE_PATH.format(name=name))
        self._sweeping = asyncio.create_task(self._blobs.sweep())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return build_app(
            self._pipeline,
            self._blobs,
            max_body_bytes=self._options.max_body_bytes,
            default_response_format=self._options.default_response_format,
            public_url=self._settings.public_url,
            allowed_origins=self._settings.allowed_origins,
            returns_request_id=False,
        )

    async def generate(self, params: Sent) -> Answer:
        """Generate images from the fields of POST /v1/images/generations.

        Returns `images`, `control_maps`, `size`, `usage`, `upscaler`, `exactness_key` and `request_id`. An image has
        the file's bytes as `image`, its `media_type`, `seed` and `parameters`. With `response_format: url` it has the
        file's path on the ingress as `url` instead of `image`.
        """
        with as_atelier_errors():
            asked = read_images_params(ImagesGenerateRequest, params)
            return await self._images(asked, generate_params(asked, self._pipeline.catalogue))

    async def edit(self, params: Sent) -> Answer:
        """Edit an image, from the fields of POST /v1/images/edits. Returns what `generate` returns."""
        with as_atelier_errors():
            asked = read_images_params(ImagesEditRequest, params)
            generation = edit_params(asked, self._pipeline.catalogue)
            with errors_naming_images(asked.sent_as):
                return await self._images(asked, generation)

    async def variation(self, params: Sent) -> Answer:
        """Vary an image, from the fields of POST /v1/images/variations. Returns what `generate` returns."""
        with as_atelier_errors():
            asked = read_images_params(ImagesVariationRequest, params)
            generation = variation_params(asked, self._pipeline.catalogue)
            with errors_naming_images(asked.sent_as):
                return await self._images(asked, generation)

    async def stream(self, params: Sent) -> AsyncGenerator[Answer]:
        """Generate images and yield `planned`, each `step` and `preview` that is asked for, and `result`.

        Takes the fields of POST /v1/images/generations; `progress` asks for steps, `partial_images` for previews. The
        result has the fields that `generate` returns. Cancelling the response stops the work before the next step.
        """
        with as_atelier_errors():
            asked = read_stream_params(params)
            generation = generate_params(asked, self._pipeline.catalogue)
            events = self._pipeline.stream(
                call_id(), generation, report_steps=asked.progress, num_previews=asked.partial_images
            )
            async with aclosing(events):
                async for event in events:
                    yield event_answer(event, generation.output_format)

    async def upscale(self, params: Sent) -> Answer:
        """Enlarge an image, from the fields of POST /v1/images/upscale.

        Returns `image` (with `response_format: url` a `url` instead), `media_type`, `size` and `upscaler`.
        """
        with as_atelier_errors():
            asked = read_params(UpscaleParams, params)
            upscaled = await self._pipeline.upscale(asked)
            file = await delivered(self._delivery, upscaled.data, asked.output_format, asked.response_format)
            return upscaled_answer(upscaled, file, asked.output_format)

    async def annotate(self, params: Sent) -> Answer:
        """Draw a control map, from the fields of POST /v1/images/annotate: `image`, `media_type`, `kind`, `size`."""
        with as_atelier_errors():
            return control_map_answer(await self._pipeline.annotate(read_params(AnnotateParams, params)))

    async def inspect(self, params: Sent) -> Answer:
        """Read the metadata of an image file. Takes and returns the fields of POST /v1/images/inspect."""
        with as_atelier_errors():
            asked = read_params(InspectParams, params)
            return (await reading.metadata_of(asked.image, inspection)).model_dump()

    async def models(self) -> Answer:
        """Return the `models` with their defaults, `controlnets` and `upscalers` that are served, as GET / does."""
        return served(self._pipeline.catalogue).model_dump()

    async def _images(self, asked: ImagesGenerateRequest, params: GenerateParams) -> Answer:
        result = await self._pipeline.generate(call_id(), params)
        files = [
            await delivered(self._delivery, picture.data, params.output_format, asked.response_format)
            for picture in result.pictures
        ]
        return images_answer(result, files)
