from __future__ import annotations

from itertools import pairwise

import pytest

from atelier.imaging.tiles import Tile, tiles


@pytest.mark.parametrize("side", [1, 9, 10])
def test_a_side_that_fits_is_one_tile(side: int) -> None:
    assert list(tiles(side, tile=10, overlap=2)) == [Tile(0, side, 0, side)]


def test_tiles_overlap_and_their_kept_parts_meet() -> None:
    assert list(tiles(11, tile=10, overlap=2)) == [Tile(0, 10, 0, 8), Tile(1, 11, 8, 11)]
    assert list(tiles(24, tile=10, overlap=2)) == [
        Tile(0, 10, 0, 8),
        Tile(6, 16, 8, 14),
        Tile(12, 22, 14, 20),
        Tile(14, 24, 20, 24),
    ]


@pytest.mark.parametrize("overlap", [0, 1, 4])
@pytest.mark.parametrize("side", range(11, 60))
def test_tiles_cover_the_side_with_an_overlap_at_every_seam(side: int, overlap: int) -> None:
    cover = list(tiles(side, tile=10, overlap=overlap))
    assert all(tile.end - tile.start == 10 for tile in cover)
    assert all(0 <= tile.start <= tile.kept_start < tile.kept_end <= tile.end <= side for tile in cover)
    assert (cover[0].kept_start, cover[-1].kept_end) == (0, side)
    for left, right in pairwise(cover):
        assert left.kept_end == right.kept_start
        assert left.end - left.kept_end >= overlap
        assert right.kept_start - right.start >= overlap
