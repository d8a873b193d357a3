"""Conversion of results into OpenAI's response objects."""

from __future__ import annotations

import time

from atelier.api.openai.quality import resolved
from atelier.api.openai.schemas import Image, ImagesGenerateRequest, ImagesResponse, InputTokens, OutputTokens, Usage
from atelier.api.schemas import control_map
from atelier.core.params.delivery import ResponseFormat
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.results import Picture, Result
from atelier.pipeline.results import Usage as Used


async def images_response(
    result: Result, asked: ImagesGenerateRequest, delivery: Delivery, response_format: ResponseFormat
) -> ImagesResponse:
    """Return the response to a request that is not streamed."""
    output_format = result.plan.params.output_format

    async def image(picture: Picture) -> Image:
        file = await delivery.deliver(picture.data, output_format, response_format)
        parameters = result.plan.parameters(picture.seed)
        return Image(seed=picture.seed, parameters=parameters, b64_json=file.b64_json, url=file.url)

    return ImagesResponse(
        created=int(time.time()),
        data=[await image(picture) for picture in result.pictures],
        output_format=output_format,
        size=str(result.plan.image_size),
        upscaler=result.upscaler,
        quality=resolved(asked.quality),
        usage=usage(result.usage),
        safety_identifier=asked.label,
        control_maps=[control_map(drawn) for drawn in result.control_maps] or None,
        cached=result.is_cached,
        exactness_key=result.exactness_key,
    )


def usage(used: Used) -> Usage:
    """Convert usage to OpenAI's form."""
    return Usage(
        input_tokens=used.text_tokens + used.input_image_tokens,
        input_tokens_details=InputTokens(text_tokens=used.text_tokens, image_tokens=used.input_image_tokens),
        output_tokens=used.output_image_tokens,
        output_tokens_details=OutputTokens(image_tokens=used.output_image_tokens),
        total_tokens=used.text_tokens + used.input_image_tokens + used.output_image_tokens,
    )
