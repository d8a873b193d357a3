"""Reading clients' images in processes."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from atelier.api.native.inspecting import inspection
from atelier.core.errors import InvalidParameter, QueueFull
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.imaging.process import ImageProcess
from atelier.pipeline import reading
from tests.pictures import encoded

_LARGE, _SMALL = Size(width=4096, height=4096), Size(width=64, height=64)


@pytest.mark.slow
async def test_too_many_large_images_at_once_are_rejected_and_small_ones_are_not() -> None:
    large, small = (
        parse(GenerateParams, {"prompt": "a", "init_image": encoded(Image.new("1", (size.width, size.height), 1))})
        for size in (_LARGE, _SMALL)
    )

    async def read(params: GenerateParams) -> object:
        return await reading.inputs_of(params, await reading.sizes_of(params), _SMALL)

    read_images = await asyncio.gather(*map(read, [large] * 9 + [small]), return_exceptions=True)
    rejected = [result for result in read_images if isinstance(result, Exception)]
    assert [type(error) for error in rejected] == [QueueFull]
    assert rejected[0] in read_images[:9]
    assert await read(large)


@pytest.mark.parametrize("name", ["init_image", "mask_image", "controls[0].image"])
async def test_files_that_are_no_images_start_no_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ImageProcess, "run")
    image = encoded(Image.new("1", (8, 8)))
    files = {"init_image": image, "mask_image": image, "controls[0].image": image, name: b"no picture"}
    control = {"kind": "canny", "image": files.pop("controls[0].image")}
    params = parse(GenerateParams, {"prompt": "a", **files, "controls": [control]})
    with pytest.raises(InvalidParameter) as caught:
        await reading.sizes_of(params)
    assert caught.value.param == name
    for read in (reading.size_of(b"no picture"), reading.metadata_of(b"no picture", inspection)):
        with pytest.raises(InvalidParameter, match="image: not a readable image"):
            await read
