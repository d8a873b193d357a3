"""Upscalers: a network over the tiles of a picture, a few at a time: memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from atelier.catalogue.entries import UpscalerEntry
from atelier.core.upscaling import BICUBIC, FOLD_PX
from atelier.imaging.tiles import Tile, tiles
from atelier.models.esrgan import Network
from atelier.models.hashes import weights_hash
from atelier.models.loading import Placement, load_upscaler

Pixels = npt.NDArray[np.uint8]  # [height, width, 3 or 4]

#: Of the small picture. The overlap is what a network of the published depth still sees of its surroundings.
_TILE_PX, _OVERLAP_PX = 192, 24
#: Tiles of one pass.
_BATCH = 4


@dataclass(frozen=True, slots=True)
class Enlargement:
    """A picture and the size it is to have."""

    #: The upscaler's id; None is bicubic.
    name: str | None
    #: [height, width, 3 or 4]
    pixels: Pixels
    width: int
    height: int


class Upscalers:
    """All of a graph's. Not thread-safe: used from one thread."""

    def __init__(self, entries: Sequence[UpscalerEntry], placement: Placement) -> None:
        """Raises ModelUnavailable if a file is broken; one that is not there is done without."""
        networks = {entry.id: load_upscaler(entry, placement) for entry in entries}
        self._upscalers = {
            name: Upscaler(network, placement) for name, network in networks.items() if network is not None
        }

    def weights(self, name: str) -> dict[str, str]:
        """The hash of an upscaler's; none of `BICUBIC`."""
        return {name: self._upscalers[name].weights_hash} if name in self._upscalers else {}

    def upscale(self, tasks: Sequence[Enlargement]) -> Generator[None, None, list[tuple[Pixels, str]]]:
        """The pictures at their other sizes, with the upscaler's id or `BICUBIC` for each; pauses after each pass.

        By the network, pictures of one upscaler together, then resampled; their alpha is resampled.
        """
        large = [np.ascontiguousarray(task.pixels[..., :3]) for task in tasks]
        names = [task.name if task.name in self._upscalers else BICUBIC for task in tasks]
        for name, upscaler in self._upscalers.items():
            of_name = [index for index, other in enumerate(names) if other == name]
            enlarged = yield from upscaler.enlarge([large[index] for index in of_name])
            for index, picture in zip(of_name, enlarged, strict=True):
                large[index] = picture
        return [(_resampled(*of_task), of_task[2]) for of_task in zip(large, tasks, names, strict=True)]


def is_small(pixels: Pixels) -> bool:
    """Whether a pass has room for other pictures' tiles beside this one's."""
    rows, columns = (list(tiles(side, tile=_TILE_PX, overlap=_OVERLAP_PX)) for side in pixels.shape[:2])
    return len(rows) * len(columns) < _BATCH


class Upscaler:
    """One network over the tiles of pictures."""

    def __init__(self, network: Network, placement: Placement, *, tile_px: int = _TILE_PX) -> None:
        self._network = network
        self.weights_hash = weights_hash(network)
        self._placement = placement
        self._tile_px = tile_px

    def enlarge(self, pictures: Sequence[Pixels]) -> Generator[None, None, list[Pixels]]:
        """Pictures [height, width, 3], as many times larger as the network makes them.

        Tiles of all share passes; it pauses after each.
        """
        scale = self._network.scale
        padded = [_folded(picture) for picture in pictures]
        enlarged = [
            np.empty((picture.shape[0] * scale, picture.shape[1] * scale, 3), dtype=np.uint8) for picture in padded
        ]
        for batch in self._batches(padded):
            seen = np.stack([padded[of][_seen(row), _seen(column)] for of, row, column in batch])
            for (of, row, column), made in zip(batch, self._pass(seen), strict=True):
                enlarged[of][_kept(row, scale), _kept(column, scale)] = made[
                    _inside(row, scale), _inside(column, scale)
                ]
            yield
        return [
            large[: picture.shape[0] * scale, : picture.shape[1] * scale]
            for large, picture in zip(enlarged, pictures, strict=True)
        ]

    def _batches(self, pictures: Sequence[Pixels]) -> Iterator[list[tuple[int, Tile, Tile]]]:
        """Tiles of one size: index of the picture, rows, columns."""
        by_size: dict[tuple[int, int], list[tuple[int, Tile, Tile]]] = {}
        for index, picture in enumerate(pictures):
            for row in tiles(picture.shape[0], tile=self._tile_px, overlap=_OVERLAP_PX):
                for column in tiles(picture.shape[1], tile=self._tile_px, overlap=_OVERLAP_PX):
                    size = row.end - row.start, column.end - column.start
                    by_size.setdefault(size, []).append((index, row, column))
        for of_size in by_size.values():
            for start in range(0, len(of_size), _BATCH):
                yield of_size[start : start + _BATCH]

    @torch.inference_mode()
    def _pass(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[tiles, h, w, 3] to the same, larger."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        x = x.to(self._placement.device, self._placement.dtype) / 255
        made = self._network(x).clamp(0, 1)
        rounded: npt.NDArray[np.uint8] = (
            (made.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        )
        return rounded


def _resampled(large: Pixels, task: Enlargement, made_by: str) -> Pixels:
    resampled, size = Image.fromarray(large), (task.width, task.height)
    if resampled.size != size:
        resampling = Image.Resampling.BICUBIC if made_by == BICUBIC else Image.Resampling.LANCZOS
        resampled = resampled.resize(size, resampling)
    if task.pixels.shape[2] == 4:
        resampled.putalpha(Image.fromarray(task.pixels[..., 3]).resize(size, Image.Resampling.BICUBIC))
    return np.asarray(resampled)


def _folded(pixels: Pixels) -> Pixels:
    """Filled up: every tile begins at a multiple of `FOLD_PX`, or it would be folded differently."""
    height, width, _ = pixels.shape
    return np.pad(pixels, ((0, -height % FOLD_PX), (0, -width % FOLD_PX), (0, 0)), mode="edge")


def _seen(tile: Tile) -> slice:
    return slice(tile.start, tile.end)


def _kept(tile: Tile, scale: int) -> slice:
    """In the large picture."""
    return slice(tile.kept_start * scale, tile.kept_end * scale)


def _inside(tile: Tile, scale: int) -> slice:
    """The same in the tile."""
    return slice((tile.kept_start - tile.start) * scale, (tile.kept_end - tile.start) * scale)
