"""Overlapping tiles of one size that cover a large image without visible seams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile along one side, in input pixels: the range that the network reads, and the part whose output is kept."""

    start: int
    end: int
    kept_start: int
    kept_end: int


def tiles(side: int, *, tile: int, overlap: int) -> Iterator[Tile]:
    """Yield tiles of one length whose kept parts cover the side exactly; one tile if the side is shorter."""
    if side <= tile:
        yield Tile(0, side, 0, side)
        return
    kept_start = 0
    while kept_start < side:
        start = min(max(0, kept_start - overlap), side - tile)
        end = start + tile
        kept_end = side if end == side else end - overlap
        yield Tile(start, end, kept_start, kept_end)
        kept_start = kept_end
