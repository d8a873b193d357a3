from __future__ import annotations

import itertools

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.control.annotators import Annotators
from atelier.control.depth import depth_map
from atelier.control.drawing import DRAWINGS
from atelier.core.control import CONTROL_KINDS, Annotation, ControlImage
from atelier.core.errors import NotSupported
from tests.small_models import CPU


@pytest.fixture(scope="module")
def annotators(small_catalogue: Catalogue) -> Annotators:
    return Annotators(small_catalogue.annotators, CPU)


@pytest.fixture(scope="module")
def square() -> ControlImage:
    """A bright square with a fainter one beside it, on black."""
    pixels = np.zeros((64, 80, 3), dtype=np.uint8)
    pixels[16:48, 8:40] = 255
    pixels[24:40, 52:68] = 25
    return pixels


def _lit(control_image: ControlImage) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return control_image[..., 0] > 0


def test_every_kind_of_the_table_is_drawn_as_the_table_says() -> None:
    assert set(DRAWINGS) == {kind for kind, drawn_by in CONTROL_KINDS.items() if drawn_by == "opencv"}


def test_every_kind_draws_a_grey_map_of_its_own(annotators: Annotators, square: ControlImage) -> None:
    maps = {kind: annotators.annotate(Annotation(kind), square) for kind in CONTROL_KINDS}
    for kind, control_image in maps.items():
        assert control_image.shape == square.shape, kind
        assert control_image.dtype == np.uint8, kind
        assert np.array_equal(control_image[..., :1].repeat(3, axis=2), control_image), kind
        assert control_image.min() < control_image.max(), kind
    for one, other in itertools.combinations(CONTROL_KINDS, 2):
        assert not np.array_equal(maps[one], maps[other]), (one, other)


def test_canny_draws_edges_one_pixel_wide(annotators: Annotators, square: ControlImage) -> None:
    edges = _lit(annotators.annotate(Annotation("canny"), square))
    # Columns across the upper and the lower edge of the bright square, away from its corners.
    assert edges[:, 14:34].sum(axis=0).tolist() == [2] * 20
    assert not edges[:, 45:].any()


def test_cannys_thresholds_decide_which_edges_are_drawn(annotators: Annotators, square: ControlImage) -> None:
    low = _lit(annotators.annotate(Annotation("canny", low_threshold=20, high_threshold=40), square))
    high = _lit(annotators.annotate(Annotation("canny", low_threshold=20, high_threshold=255), square))
    assert low[:, 45:].any()
    assert not high[:, 45:].any()
    assert high[:, :45].any()


def test_soft_edges_are_as_bright_as_the_edges_are_strong(annotators: Annotators, square: ControlImage) -> None:
    edges = annotators.annotate(Annotation("softedge"), square)[..., 0]
    assert edges.max() >= 254
    assert edges[32, 6:11].max() >= 240
    assert 15 < edges[32, 50:55].max() < 40
    assert edges[32, 20:28].max() == 0


def test_lineart_draws_the_dark_side_of_edges_only(annotators: Annotators, square: ControlImage) -> None:
    lines = annotators.annotate(Annotation("lineart"), square)[..., 0]
    assert lines[32, 5:8].max() > 100
    assert lines[32, 8:40].max() == 0


def test_scribble_draws_thick_lines_in_black_and_white(annotators: Annotators, square: ControlImage) -> None:
    lines = annotators.annotate(Annotation("scribble"), square)
    assert set(np.unique(lines)) == {0, 255}
    assert min(_lit(lines)[:, 14:34].sum(axis=0)) >= 6
    assert not lines[28:36, 20:28].any()


def test_the_nearest_point_of_a_depth_map_is_white_and_the_farthest_black() -> None:
    inverse_depth = np.array([[2.0, 3.0], [4.0, 6.0]])
    assert depth_map(inverse_depth)[..., 0].tolist() == [[0, 64], [128, 255]]


def test_only_a_map_that_a_model_drew_has_weights(annotators: Annotators) -> None:
    assert set(annotators.weights("depth")) == {"tiny-depth-anything"}
    assert annotators.weights("canny") == {}


def test_the_first_of_several_models_of_a_kind_draws_its_maps(small_catalogue: Catalogue) -> None:
    [entry] = small_catalogue.annotators
    annotators = Annotators([entry, entry.model_copy(update={"id": "second"})], CPU)
    assert set(annotators.weights("depth")) == {entry.id}


def test_a_kind_without_its_model_is_not_supported(square: ControlImage) -> None:
    annotators = Annotators([], CPU)
    with pytest.raises(NotSupported, match="depth"):
        annotators.annotate(Annotation("depth"), square)
    assert annotators.annotate(Annotation("canny"), square).any()
