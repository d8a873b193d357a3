"""Reads clients' images in two processes: one for requests with large images, one for all others.

So only one large image is decoded at a time, and others do not wait for it. Large images that would wait for too many
others are rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from atelier.core.errors import QueueFull
from atelier.core.geometry import Size
from atelier.core.params.generate import GenerateParams
from atelier.imaging.inputs import check_format, image_size, read_pixels
from atelier.imaging.process import ImageProcess
from atelier.pipeline.inputs import MAX_PIXELS_TOGETHER, Inputs, InputSizes, read_inputs, read_sizes
from atelier.pipeline.stages import Pixels

#: Number of pixels above which an image is large. Decoding 4096 × 4096 pixels takes up to 280 MB.
_LARGE = 2048 * 2048
#: Maximum number of pixels in the large images of all requests that are being decoded or wait for it, about ten
#: seconds of work.
_MAX_LARGE_PIXELS = 4 * MAX_PIXELS_TOGETHER
_LARGE_RETRY_AFTER_S = 5
#: CPU time for the headers, and for the pixels, of all images of a request; twice what the largest need.
_HEADERS_S, _PIXELS_S = 0.25, 5.0

P = ParamSpec("P")
T = TypeVar("T")


class _Room:
    """The room for large images: a number of pixels that the requests which hold them share."""

    def __init__(self, max_pixels: int) -> None:
        self._num_free = max_pixels

    @contextmanager
    def held(self, num_pixels: int) -> Iterator[None]:
        """Hold so many pixels within the context. Raises QueueFull if fewer are free."""
        if num_pixels > self._num_free:
            raise QueueFull(
                "The server decodes as many large images as it can; try again in a moment, or send smaller ones.",
                retry_after_s=_LARGE_RETRY_AFTER_S,
            )
        self._num_free -= num_pixels
        try:
            yield
        finally:
            self._num_free += num_pixels


_process = ImageProcess("images", niceness=5)
_process_of_large = ImageProcess("large-images", niceness=15)
_room = _Room(_MAX_LARGE_PIXELS)


async def sizes_of(params: GenerateParams) -> InputSizes:
    """Return the sizes of a request's images. Raises the errors of `read_sizes`, and TooMuchWork."""
    files = params.image_files
    for param, data in files.items():
        check_format(data, param=param)
    return await _process.run(_HEADERS_S, read_sizes, params) if files else read_sizes(params)


async def inputs_of(params: GenerateParams, sizes: InputSizes, size: Size) -> Inputs:
    """Return a request's images, resized to `size`. Raises the errors of `read_inputs`, TooMuchWork and QueueFull."""
    return await _decoded(sizes.all, read_inputs, params, size) if params.image_files else Inputs()


async def size_of(data: bytes) -> Size:
    """Return the size of the image in the field `image`. Raises InvalidParameter or TooMuchWork."""
    check_format(data, param="image")
    return await _process.run(_HEADERS_S, image_size, data, param="image")


async def metadata_of(data: bytes, read: Callable[[bytes], T]) -> T:
    """Read the metadata of the file in the field `image`. Raises the errors of `read`, and TooMuchWork."""
    check_format(data, param="image")
    return await _process.run(_HEADERS_S, read, data)


async def pixels_of(data: bytes, size: Size, *, keep_alpha: bool) -> Pixels:
    """Return the pixels [height, width, 3 or 4] of the image in the field `image`, which has this size.

    Transparent parts become white unless `keep_alpha`. Raises InvalidParameter, TooMuchWork or QueueFull.
    """
    return await _decoded((size,), read_pixels, data, param="image", keep_alpha=keep_alpha)


async def _decoded(sizes: Sequence[Size], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that decodes images of these sizes in the process for them."""
    if all(size.num_pixels <= _LARGE for size in sizes):
        return await _process.run(_PIXELS_S, function, *args, **kwargs)
    with _room.held(sum(size.num_pixels for size in sizes)):
        return await _process_of_large.run(_PIXELS_S, function, *args, **kwargs)
