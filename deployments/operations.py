"""The operations that other Ray applications call on the Router by handle.

Each takes the fields of its HTTP route, as a mapping or as an object of `atelier.core.params`. It returns plain data,
or raises the AtelierError that HTTP would report.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from atelier.api.native.inspecting import inspection
from atelier.api.native.status import served
from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.api.openai.translate import edit_params, errors_naming_images, generate_params, variation_params
from atelier.core.params import AnnotateParams, GenerateParams, InspectParams, UpscaleParams
from atelier.pipeline import reading
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import Observe, RequestRecord
from deployments.answers import (
    Answer,
    control_map_answer,
    delivered,
    event_answer,
    images_answer,
    upscaled_answer,
)
from deployments.calls import Sent, read_images_params, read_params, read_stream_params, recorded


class Operations:
    """The operations of a pipeline, for callers by handle."""

    def __init__(self, pipeline: Pipeline, delivery: Delivery, observe: Observe) -> None:
        """`observe` receives the record of every call when it has ended."""
        self._pipeline = pipeline
        self._delivery = delivery
        self._observe = observe

    async def generate(self, params: Sent) -> Answer:
        """Generate images from the fields of POST /v1/images/generations.

        Returns `images`, `control_maps`, `size`, `usage`, `upscaler`, `exactness_key`, `cached` and `request_id`. An
        image has the file's bytes as `image`, its `media_type`, `seed` and `parameters`. With `response_format: url`
        it has the file's path on the ingress as `url` instead of `image`.
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
        """Return `models` with their defaults, `controlnets`, `loras` and `upscalers`, as GET / does."""
        with recorded("models", self._observe):
            return (await served(self._pipeline.catalogue)).model_dump()

    async def _images(self, record: RequestRecord, asked: ImagesGenerateRequest, params: GenerateParams) -> Answer:
        result = await self._pipeline.generate(record, params)
        files = [
            await delivered(self._delivery, picture.data, params.output_format, asked.response_format)
            for picture in result.pictures
        ]
        return images_answer(result, files)
