"""Upscalers: networks that run over the tiles of images.

A network call has few tiles, so that its memory does not grow with the image.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from atelier.catalogue.entries import UpscalerEntry
from atelier.core.geometry import Size
from atelier.core.upscaling import BICUBIC, FOLD_PX
from atelier.imaging.tiles import Tile, tiles
from atelier.models.esrgan import Network
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_upscaler

Pixels = npt.NDArray[np.uint8]  # [height, width, 3 or 4]

#: Tile side and overlap, in input pixels. The overlap covers the receptive field of the published networks.
_TILE_PX, _OVERLAP_PX = 192, 24
#: Tiles per call of a network.
_BATCH = 4


@dataclass(frozen=True, slots=True)
class UpscaleTask:
    """An image to resize, and its new size."""

    #: Id of the upscaler; None resizes bicubically.
    upscaler: str | None
    #: [height, width, 3 or 4]
    pixels: Pixels
    size: Size


class Upscalers:
    """All upscalers of a graph. Not thread-safe: used from one thread."""

    def __init__(self, entries: Sequence[UpscalerEntry], placement: Placement) -> None:
        """Load every upscaler whose weight file exists; the others fall back to bicubic.

        Raises ModelUnavailable if a weight file is corrupt.
        """
        networks = {entry.id: load_upscaler(entry, placement) for entry in entries}
        self._upscalers = {
            name: Upscaler(network, placement) for name, network in networks.items() if network is not None
        }

    def weights(self, upscaler: str) -> dict[str, str]:
        """Return {upscaler id: weights hash}; empty for `BICUBIC`."""
        return {upscaler: self._upscalers[upscaler].weights_hash} if upscaler in self._upscalers else {}

    def all_weights(self) -> dict[str, str]:
        """Return the weights hashes of all loaded upscalers, by id."""
        return {name: upscaler.weights_hash for name, upscaler in self._upscalers.items()}

    def upscale(self, tasks: Sequence[UpscaleTask]) -> Generator[None, None, list[tuple[Pixels, str]]]:
        """Upscale images that share a network in one batch, then resize them to the requested sizes.

        Returns for each task the image, [height, width, 3 or 4], and the id of the upscaler that made it, or
        `BICUBIC`. Alpha is resized separately. Yields None after each network call, so that other calls can run.
        """
        upscaled = [np.ascontiguousarray(task.pixels[..., :3]) for task in tasks]
        names = [task.upscaler if task.upscaler in self._upscalers else BICUBIC for task in tasks]
        for name, upscaler in self._upscalers.items():
            chosen = [index for index, other in enumerate(names) if other == name]
            images = yield from upscaler.upscale([upscaled[index] for index in chosen])
            for index, image in zip(chosen, images, strict=True):
                upscaled[index] = image
        return [(_resized(image, task, name), name) for image, task, name in zip(upscaled, tasks, names, strict=True)]


def is_small(pixels: Pixels) -> bool:
    """Return whether the image [height, width, channels] has fewer tiles than a network call takes."""
    rows, columns = (list(tiles(side, tile=_TILE_PX, overlap=_OVERLAP_PX)) for side in pixels.shape[:2])
    return len(rows) * len(columns) < _BATCH


class Upscaler:
    """One upscaling network, run over the tiles of images."""

    def __init__(self, network: Network, placement: Placement, *, tile_px: int = _TILE_PX) -> None:
        self._network = network
        self.weights_hash = weights_hash(network)
        self._placement = placement
        self._tile_px = tile_px

    def upscale(self, images: Sequence[Pixels]) -> Generator[None, None, list[Pixels]]:
        """Upscale images [height, width, 3] by the network's scale factor; the generator returns the upscaled images.

        Tiles of all images are batched together. Yields None after each network call, so that other calls can run.
        """
        scale = self._network.scale
        padded = [_padded(image) for image in images]
        upscaled = [np.empty((image.shape[0] * scale, image.shape[1] * scale, 3), dtype=np.uint8) for image in padded]
        for batch in self._batches(padded):
            inputs = np.stack([padded[index][_read(row), _read(column)] for index, row, column in batch])
            for (index, row, column), output in zip(batch, self._call(inputs), strict=True):
                kept = output[_kept_of_output(row, scale), _kept_of_output(column, scale)]
                upscaled[index][_written(row, scale), _written(column, scale)] = kept
            yield
        return [
            large[: image.shape[0] * scale, : image.shape[1] * scale]
            for large, image in zip(upscaled, images, strict=True)
        ]

    def _batches(self, images: Sequence[Pixels]) -> Iterator[list[tuple[int, Tile, Tile]]]:
        """Yield batches of equally large tiles, each as (index of its image, vertical range, horizontal range)."""
        by_size: dict[tuple[int, int], list[tuple[int, Tile, Tile]]] = {}
        for index, image in enumerate(images):
            for row in tiles(image.shape[0], tile=self._tile_px, overlap=_OVERLAP_PX):
                for column in tiles(image.shape[1], tile=self._tile_px, overlap=_OVERLAP_PX):
                    size = row.end - row.start, column.end - column.start
                    by_size.setdefault(size, []).append((index, row, column))
        for same_size in by_size.values():
            for start in range(0, len(same_size), _BATCH):
                yield same_size[start : start + _BATCH]

    @torch.inference_mode()
    def _call(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Run the network on tiles [tiles, h, w, 3]; returns [tiles, scale · h, scale · w, 3]."""
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        x = x.to(self._placement.device, self._placement.dtype) / 255
        upscaled = self._network(x).clamp(0, 1)
        rounded: npt.NDArray[np.uint8] = (
            (upscaled.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        )
        return rounded


def _resized(image: Pixels, task: UpscaleTask, upscaler: str) -> Pixels:
    """Resize an upscaled image to the task's size and add the task's alpha channel, if any, resized bicubically.

    The colours are resampled by Lanczos, or bicubically if no network has upscaled the image.
    """
    resized, size = Image.fromarray(image), (task.size.width, task.size.height)
    if resized.size != size:
        resampling = Image.Resampling.BICUBIC if upscaler == BICUBIC else Image.Resampling.LANCZOS
        resized = resized.resize(size, resampling)
    if task.pixels.shape[2] == 4:
        resized.putalpha(Image.fromarray(task.pixels[..., 3]).resize(size, Image.Resampling.BICUBIC))
    return np.asarray(resized)


def _padded(pixels: Pixels) -> Pixels:
    """Pad both sides to multiples of `FOLD_PX`, so that tiles start on the grid in which networks fold pixels."""
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, -height % FOLD_PX), (0, -width % FOLD_PX), (0, 0)), mode="edge")


def _read(tile: Tile) -> slice:
    """Return the slice of the input image that the network reads for the tile, in pixels."""
    return slice(tile.start, tile.end)


def _written(tile: Tile, scale: int) -> slice:
    """Return the slice of the output image that the tile's output is written to, in pixels."""
    return slice(tile.kept_start * scale, tile.kept_end * scale)


def _kept_of_output(tile: Tile, scale: int) -> slice:
    """Return the slice of the tile's upscaled output to keep, in pixels from that output's own start."""
    return slice((tile.kept_start - tile.start) * scale, (tile.kept_end - tile.start) * scale)
