"""Between OpenAI's dialect and the pipeline's."""

from __future__ import annotations

import base64
import time

from starlette.requests import Request

from atelier.api.openai.schemas import Image, ImagesResponse, Model
from atelier.catalogue.entries import ModelEntry
from atelier.pipeline.pipeline import Picture, Result
from atelier.stores.blobs import BlobStore


async def images_response(result: Result, *, as_urls: bool, blobs: BlobStore, request: Request) -> ImagesResponse:
    async def image(picture: Picture) -> Image:
        parameters = result.plan.parameters(picture.seed)
        if not as_urls:
            encoded = base64.b64encode(picture.data).decode("ascii")
            return Image(b64_json=encoded, seed=picture.seed, parameters=parameters)
        name = await blobs.put(picture.data, result.plan.output_format)
        url = str(request.url_for("picture_file", name=name))
        return Image(url=url, seed=picture.seed, parameters=parameters)

    return ImagesResponse(
        created=int(time.time()),
        data=[await image(picture) for picture in result.pictures],
        output_format=result.plan.output_format,
        size=str(result.plan.size),
        exactness_key=result.exactness_key,
    )


def model(entry: ModelEntry) -> Model:
    return Model(id=entry.id, created=entry.created_unix_s, owned_by=entry.owned_by)
