"""Reading clients' images in processes."""

from __future__ import annotations

import asyncio

from PIL import Image

from atelier.core.errors import QueueFull
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.pipeline import reading
from tests.pictures import encoded

_LARGE, _SMALL = Size(width=4096, height=4096), Size(width=64, height=64)


async def test_too_many_large_images_at_once_are_rejected_and_small_ones_are_not() -> None:
    large, small = (
        parse(GenerateParams, {"prompt": "a", "init_image": encoded(Image.new("1", (size.width, size.height), 1))})
        for size in (_LARGE, _SMALL)
    )

    async def read(params: GenerateParams) -> object:
        return await reading.inputs_of(params, await reading.sizes_of(params), _SMALL)

    for _ in range(2):
        read_images = await asyncio.gather(*map(read, [large] * 9 + [small]), return_exceptions=True)
        rejected = [result for result in read_images if isinstance(result, Exception)]
        assert [type(error) for error in rejected] == [QueueFull]
        assert rejected[0] in read_images[:9]
