"""The judge: compares the pixels of an image with its description, part by part.

It is deterministic and uses no model. The shape of an object is the silhouette that overlaps its pixels best, over
all shapes, rotations and scales. Pixels of the other object are ignored, because it may stand in front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.scenes import ANCHORS, COLOURS, RGB, SHAPES, Colour, Description, Palette, Place, Shape, Thing, silhouette

Mask = npt.NDArray[np.bool_]  # [height, width]
RgbArray = npt.NDArray[np.float32]  # [..., 3], 0 … 255

#: Minimum area of an object's mask, as a fraction of the image; a smaller one counts as a missing object.
_MIN_AREA = 0.005
#: Minimum intersection over union of a mask with a silhouette, to count as the silhouette's shape.
_MIN_OVERLAP = 0.6
#: The grid that silhouettes are compared on: number of cells per side, and half its side in radii of the object.
_GRID, _REACH = 48, 1.5
_ROTATIONS_DEG = (-18, -12, -6, 0, 6, 12, 18)
#: Offsets from the mask's centroid that are tried as centres, in radii. Hidden or cropped parts move the centroid.
_SHIFTS = (-0.3, -0.15, 0.0, 0.15, 0.3)
#: Largest distance in RGB, 0 … 442, of the median pixel of a surface from its colour in the palette.
_MAX_DISTANCE = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingVerdict:
    """Whether each attribute of an object is right."""

    colour: bool
    shape: bool
    #: None if the description names no place.
    place: bool | None

    @property
    def is_right(self) -> bool:
        return self.colour and self.shape and self.place is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the background and each object of an image are right."""

    background: bool
    things: tuple[ThingVerdict, ...]

    @property
    def is_right(self) -> bool:
        return self.background and all(thing.is_right for thing in self.things)


def judge(image: Image.Image, description: Description, palette: Palette = RGB) -> Verdict:
    """Compare an image with its description, whose colours are those of the palette."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    colours = nearest_colours(pixels, palette)
    rim = _rim(*colours.shape)
    background = _main_colour(colours[rim])
    masks = _thing_masks(colours, background, description)
    return Verdict(
        background=_shows(description.background, pixels[rim], palette),
        things=tuple(
            _judge_thing(thing, mask, _others(masks, index), pixels, palette)
            for index, (thing, mask) in enumerate(zip(description.things, masks, strict=True))
        ),
    )


def nearest_colours(pixels: RgbArray, palette: Palette = RGB) -> npt.NDArray[np.intp]:
    """Return the index in `COLOURS` of each pixel's nearest colour, [...], from RGB [..., 3]."""
    distances = np.square(pixels[..., None, :] - _as_array(palette)).sum(-1)
    nearest: npt.NDArray[np.intp] = distances.argmin(-1)
    return nearest


def _as_array(palette: Palette) -> RgbArray:
    return np.array([palette[colour] for colour in COLOURS], dtype=np.float32)


def _rim(height: int, width: int) -> Mask:
    """Return the mask of the image's border, four pixels wide."""
    rim = np.ones((height, width), dtype=np.bool_)
    rim[4:-4, 4:-4] = False
    return rim


def _main_colour(colours: npt.NDArray[np.intp]) -> Colour:
    return COLOURS[np.bincount(colours, minlength=len(COLOURS)).argmax()]


def _shows(colour: Colour, surface: RgbArray, palette: Palette) -> bool:
    """Return whether most pixels [pixels, 3] are nearest to the colour, and their median is as the palette has it."""
    colours = nearest_colours(surface, palette)
    if _main_colour(colours) != colour:
        return False
    median = np.median(surface[colours == COLOURS.index(colour)], axis=0)
    return math.dist(median, palette[colour]) <= _MAX_DISTANCE


def _thing_masks(colours: npt.NDArray[np.intp], background: Colour, description: Description) -> list[Mask]:
    """Return each object's mask: all but the background for a single object, else the pixels of its colour."""
    if len(description.things) == 1:
        return [_clean(colours != COLOURS.index(background))]
    return [_clean(colours == COLOURS.index(thing.colour)) for thing in description.things]


def _clean(mask: Mask) -> Mask:
    """Remove lines one or two pixels wide, such as blended edges between two other colours."""
    return _dilate(~_dilate(~mask))


def _dilate(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return _any([padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)])


def _others(masks: list[Mask], index: int) -> Mask:
    return _any([np.zeros_like(mask) if other == index else mask for other, mask in enumerate(masks)])


def _any(masks: list[Mask]) -> Mask:
    union: Mask = np.logical_or.reduce(masks)
    return union


def _judge_thing(thing: Thing, mask: Mask, others: Mask, pixels: RgbArray, palette: Palette) -> ThingVerdict:
    if mask.mean() < _MIN_AREA:
        return ThingVerdict(colour=False, shape=False, place=None if thing.place is None else False)
    shape, centre = _fit(mask, others)
    return ThingVerdict(
        colour=_shows(thing.colour, pixels[mask], palette),
        shape=shape == thing.shape,
        place=None if thing.place is None else _nearest_place(centre) == thing.place,
    )


def _nearest_place(centre: tuple[float, float]) -> Place:
    return min(ANCHORS, key=lambda place: math.dist(ANCHORS[place], centre))


def _fit(mask: Mask, ignored: Mask) -> tuple[Shape | None, tuple[float, float]]:
    """Return the shape that overlaps the mask best and its centre (x, y), 0 … 1, without counting `ignored` pixels.

    The shape is None if the best overlap is less than `_MIN_OVERLAP`.
    """
    height, width = mask.shape
    centres, radii = _candidates(mask)
    columns, rows = (
        np.floor(centres[:, axis, None] + radii[:, None] * _grid()[axis]).astype(np.intp) for axis in (0, 1)
    )
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    at = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    counted = inside & ~ignored[at]  # [candidates, cells]
    templates = _templates()  # [shapes · rotations, cells]
    intersection = (counted & mask[at]).astype(np.float32) @ templates.T
    template_area = counted.astype(np.float32) @ templates.T
    mask_area = mask.sum() / np.square(2 * _REACH * radii / _GRID)
    overlap = intersection / (template_area + mask_area[:, None] - intersection)
    candidate, template = np.unravel_index(overlap.argmax(), overlap.shape)
    centre = centres[candidate] / (width, height)
    shape = SHAPES[template // len(_ROTATIONS_DEG)] if overlap.max() >= _MIN_OVERLAP else None
    return shape, (float(centre[0]), float(centre[1]))


def _candidates(mask: Mask) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return circles to try as outlines: centres [candidates, 2] near the centroid, radii [candidates], in pixels."""
    rows, columns = np.nonzero(mask)
    centroid = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    shifts = np.array([(dx, dy) for dx in _SHIFTS for dy in _SHIFTS])
    radii = min(mask.shape) * np.geomspace(0.1, 0.33, 17)
    centres = centroid + radii[:, None, None] * shifts
    return centres.reshape(-1, 2), np.repeat(radii, len(shifts))


@cache
def _grid() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positions x and y of the grid's cells, [cells] each, in radii from the centre."""
    axis = ((np.arange(_GRID) + 0.5) / _GRID * 2 - 1) * _REACH
    x, y = np.meshgrid(axis, axis)
    return x.ravel(), y.ravel()


@cache
def _templates() -> npt.NDArray[np.float32]:
    """Compute coverage of the grid's cells by every shape at every rotation, [shapes · rotations, cells], 0 … 1."""
    middle, radius = (_GRID / 2, _GRID / 2), _GRID / 2 / _REACH
    return np.stack(
        [
            np.asarray(silhouette(shape, (_GRID, _GRID), middle, radius, rotation), dtype=np.float32).ravel() / 255
            for shape in SHAPES
            for rotation in _ROTATIONS_DEG
        ]
    )
