"""Reads clients' images in two processes: one for requests with large images, one for all others.

So only one large image is decoded at a time, and others do not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from atelier.core.geometry import Size
from atelier.core.params.generate import GenerateParams
from atelier.imaging.inputs import image_size, read_pixels
from atelier.imaging.process import ImageProcess
from atelier.pipeline.inputs import Inputs, InputSizes, read_inputs, read_sizes
from atelier.pipeline.stages import Pixels

#: Number of pixels above which an image is large. Decoding 4096 × 4096 pixels takes up to 280 MB.
_LARGE = 2048 * 2048
#: CPU time for the headers, and for the pixels, of all images of a request; twice what the largest need.
_HEADERS_S, _PIXELS_S = 1, 5

P = ParamSpec("P")
T = TypeVar("T")

_process, _process_of_large = ImageProcess("images"), ImageProcess("large-images")


async def in_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that reads headers or metadata of clients' files. Raises its errors, and TooMuchWork."""
    return await _process.run(_HEADERS_S, function, *args, **kwargs)


async def sizes_of(params: GenerateParams) -> InputSizes:
    """Return the sizes of a request's images. Raises the errors of `read_sizes`, and TooMuchWork."""
    return await in_process(read_sizes, params) if params.has_images else read_sizes(params)


async def inputs_of(params: GenerateParams, sizes: InputSizes, size: Size) -> Inputs:
    """Return a request's images, resized to `size`. Raises the errors of `read_inputs`, and TooMuchWork."""
    return await _process_for(*sizes.all).run(_PIXELS_S, read_inputs, params, size) if params.has_images else Inputs()


async def size_of(data: bytes) -> Size:
    """Return the size of the image in the field `image`. Raises InvalidParameter or TooMuchWork."""
    return await in_process(image_size, data, param="image")


async def pixels_of(data: bytes, size: Size, *, keep_alpha: bool) -> Pixels:
    """Return the pixels [height, width, 3 or 4] of the image in the field `image`, which has this size.

    Transparent parts become white unless `keep_alpha`. Raises InvalidParameter or TooMuchWork.
    """
    return await _process_for(size).run(_PIXELS_S, read_pixels, data, param="image", keep_alpha=keep_alpha)


def _process_for(*sizes: Size) -> ImageProcess:
    return _process_of_large if any(size.num_pixels > _LARGE for size in sizes) else _process
