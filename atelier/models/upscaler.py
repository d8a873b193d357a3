"""An upscaler: its network over the tiles of a picture, a few at a time, so that memory does not grow with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from atelier.catalogue.entries import UpscalerEntry
from atelier.imaging.tiles import Tile, tiles
from atelier.models.loading import Placement, load_upscaler

Pixels = npt.NDArray[np.uint8]  # [height, width, 3]

#: Of the small picture. The overlap is what a network of the published depth still sees of its surroundings.
_TILE_PX, _OVERLAP_PX = 192, 24
#: Tiles of one pass.
_BATCH = 4


class Upscaler:
    """Not thread-safe: used from one thread."""

    def __init__(self, entry: UpscalerEntry, placement: Placement, *, tile_px: int = _TILE_PX) -> None:
        self._network = load_upscaler(entry, placement)
        self._placement = placement
        self._tile_px = tile_px

    @property
    def scale(self) -> int:
        return self._network.scale

    @torch.inference_mode()
    def enlarge(self, pixels: Pixels) -> Pixels:
        """A picture [height, width, 3], `scale` times larger."""
        height, width, _ = pixels.shape
        scale = self.scale
        grid = [
            (row, column)
            for row in tiles(height, tile=self._tile_px, overlap=_OVERLAP_PX)
            for column in tiles(width, tile=self._tile_px, overlap=_OVERLAP_PX)
        ]
        enlarged = np.empty((height * scale, width * scale, 3), dtype=np.uint8)
        for start in range(0, len(grid), _BATCH):
            batch = grid[start : start + _BATCH]
            of_batch = self._pass(np.stack([pixels[_seen(row), _seen(column)] for row, column in batch]))
            for (row, column), made in zip(batch, of_batch, strict=True):
                enlarged[_kept(row, scale), _kept(column, scale)] = made[_inside(row, scale), _inside(column, scale)]
        return enlarged

    def _pass(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[tiles, h, w, 3] to the same, larger; sides that the network folds are filled up and cut again."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        x = x.to(self._placement.device, self._placement.dtype) / 255
        height, width = x.shape[2:]
        x = torch.nn.functional.pad(x, (0, -width % 4, 0, -height % 4), mode="replicate")
        made = self._network(x).clamp(0, 1)[..., : height * self.scale, : width * self.scale]
        rounded: npt.NDArray[np.uint8] = (
            (made.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        )
        return rounded


def _seen(tile: Tile) -> slice:
    return slice(tile.start, tile.end)


def _kept(tile: Tile, scale: int) -> slice:
    """In the large picture."""
    return slice(tile.kept_start * scale, tile.kept_end * scale)


def _inside(tile: Tile, scale: int) -> slice:
    """The same in the tile."""
    return slice((tile.kept_start - tile.start) * scale, (tile.kept_end - tile.start) * scale)
