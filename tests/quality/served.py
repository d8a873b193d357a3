"""Images that a pipeline makes from captions, with the judge's verdicts."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence

from PIL import Image

from atelier.core.params import GenerateParams, parse
from atelier.pipeline.pipeline import Pipeline
from tests.records import new_record
from zoo.captions import canonical
from zoo.judge import judge
from zoo.report import Judged
from zoo.scenes import Description, Palette


async def image_of(pipeline: Pipeline, **fields: object) -> Image.Image:
    result = await pipeline.generate(new_record(), parse(GenerateParams, fields))
    return Image.open(io.BytesIO(result.pictures[0].data))


async def judged_images(
    pipeline: Pipeline, descriptions: Sequence[Description], palette: Palette, *, model: str
) -> list[Judged]:
    """Request an image per caption, all at once, with the model's defaults and the index as the seed; judge them."""
    images = await asyncio.gather(
        *(
            image_of(pipeline, prompt=canonical(description), seed=seed, model=model)
            for seed, description in enumerate(descriptions)
        )
    )
    return [
        Judged(description, image, judge(image, description, palette))
        for description, image in zip(descriptions, images, strict=True)
    ]
