"""Upscalers: a network over the tiles of a picture, a few at a time: memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from atelier.catalogue.entries import UpscalerEntry
from atelier.core.upscaling import BICUBIC
from atelier.imaging.tiles import Tile, tiles
from atelier.models.loading import Placement, load_upscaler
from atelier.models.origins import weights_hash
from atelier.models.upscaling import Network

Pixels = npt.NDArray[np.uint8]  # [height, width, 3 or 4]

#: Of the small picture. The overlap is what a network of the published depth still sees of its surroundings.
_TILE_PX, _OVERLAP_PX = 192, 24
#: Networks fold up to 4 × 4 pixels into one: every tile begins at a multiple of it, or they would fold differently.
_FOLD = 4
#: Tiles of one pass.
_BATCH = 4


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

    def upscale(self, name: str | None, pixels: Pixels, *, width: int, height: int) -> tuple[Pixels, str]:
        """A picture [height, width, 3 or 4] at another size, and the upscaler's id or `BICUBIC`.

        By the network, then resampled; its alpha is resampled.
        """
        upscaler = self._upscalers.get(name or "")
        opaque = pixels[..., :3]
        large = opaque if upscaler is None else upscaler.enlarge(np.ascontiguousarray(opaque))
        resampled = Image.fromarray(large)
        if resampled.size != (width, height):
            resampling = Image.Resampling.BICUBIC if upscaler is None else Image.Resampling.LANCZOS
            resampled = resampled.resize((width, height), resampling)
        if pixels.shape[2] == 4:
            alpha = Image.fromarray(pixels[..., 3]).resize((width, height), Image.Resampling.BICUBIC)
            resampled.putalpha(alpha)
        return np.asarray(resampled), BICUBIC if upscaler is None or name is None else name


class Upscaler:
    """One network over the tiles of pictures."""

    def __init__(self, network: Network, placement: Placement, *, tile_px: int = _TILE_PX) -> None:
        self._network = network
        self.weights_hash = weights_hash(network)
        self._placement = placement
        self._tile_px = tile_px

    @torch.inference_mode()
    def enlarge(self, pixels: Pixels) -> Pixels:
        """A picture [height, width, 3], as many times larger as the network makes it."""
        height, width, _ = pixels.shape
        scale = self._network.scale
        pixels = np.pad(pixels, ((0, -height % _FOLD), (0, -width % _FOLD), (0, 0)), mode="edge")
        grid = [
            (row, column)
            for row in tiles(pixels.shape[0], tile=self._tile_px, overlap=_OVERLAP_PX)
            for column in tiles(pixels.shape[1], tile=self._tile_px, overlap=_OVERLAP_PX)
        ]
        enlarged = np.empty((pixels.shape[0] * scale, pixels.shape[1] * scale, 3), dtype=np.uint8)
        for start in range(0, len(grid), _BATCH):
            batch = grid[start : start + _BATCH]
            of_batch = self._pass(np.stack([pixels[_seen(row), _seen(column)] for row, column in batch]))
            for (row, column), made in zip(batch, of_batch, strict=True):
                enlarged[_kept(row, scale), _kept(column, scale)] = made[_inside(row, scale), _inside(column, scale)]
        return enlarged[: height * scale, : width * scale]

    def _pass(self, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[tiles, h, w, 3] to the same, larger."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        x = x.to(self._placement.device, self._placement.dtype) / 255
        made = self._network(x).clamp(0, 1)
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
