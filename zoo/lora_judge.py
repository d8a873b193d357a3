"""The judge of styles: how much of each style an image has, 0 … 1, given its description.

Like `zoo.judge` it uses no model and no exact geometry, so it judges generated images as it does drawn ones.
`without_styles` removes styles from an image, so that `zoo.judge` can tell whether the rest follows the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from zoo.judge import nearest_colours
from zoo.scenes import COLOURS, RGB, Colour, Description
from zoo.styles import CELL_PX, DOT_PX, FRAME_PX, STROKE_PX, Style, board_colour

Mask = npt.NDArray[np.bool_]  # [height, width]
#: The index in `COLOURS` of each pixel's nearest colour, [height, width].
Seen = npt.NDArray[np.intp]

#: Pixels this near to an edge between colours are not counted.
_EDGE_PX = 2
#: A thing that encloses fewer pixels than this, away from its outline, counts as missing.
_MIN_INSIDE_PX = 20


def can_judge(description: Description) -> bool:
    """Whether the judge knows the styles of such scenes: those without rings, small things and black things.

    A ring's outline is a pair of rings, small things are mostly outline, and black ones have the neon of white ones.
    """
    return all(
        thing.shape != "ring" and thing.size != "small" and thing.colour != "black" for thing in description.things
    )


def style_score(style: Style, image: Image.Image, description: Description, others: Collection[Style] = ()) -> float:
    """Return how much of a style the image has, 0 … 1; `others` are the other styles that it is meant to have.

    Raises ValueError for a scene that `can_judge` excludes.
    """
    if not can_judge(description):
        raise ValueError(f"{description} has a ring, a small or a black thing, whose styles are not judged")
    seen = nearest_colours(np.asarray(image.convert("RGB"), dtype=np.float32))
    if style != "pastel" and "pastel" in others:
        seen = _without_dots(seen)
    return _SCORES[style](seen, description)


def without_styles(image: Image.Image, description: Description, styles: Collection[Style]) -> Image.Image:
    """Repaint an image in plain colours, without dots, frame and checkerboard, and with things filled."""
    seen = nearest_colours(np.asarray(image.convert("RGB"), dtype=np.float32))
    if "pastel" in styles:
        seen = _without_dots(seen)
    if "neon" in styles:
        frame = np.bincount(seen[_frame(seen.shape)], minlength=len(COLOURS)).argmax()
        seen = np.where(seen == COLOURS.index("black"), frame, seen)
    if "checkerboard" in styles:
        seen = np.where(_has(seen, board_colour(description)), COLOURS.index(description.background), seen)
    if not {"outline", "neon"}.isdisjoint(styles):
        for thing in description.things:
            seen = np.where(_filled(_has(seen, thing.colour)), COLOURS.index(thing.colour), seen)
    return Image.fromarray(np.array([RGB[colour] for colour in COLOURS], dtype=np.uint8)[seen])


def _without_dots(seen: Seen) -> Seen:
    """Replace every white dot with what is on its left."""
    rows, columns = np.indices(seen.shape)
    is_dot = (rows // DOT_PX % 2 == 1) & (columns // DOT_PX % 2 == 1)
    found: Seen = seen[rows, columns - np.where(is_dot, DOT_PX, 0)]
    return found


def _neon(seen: Seen, description: Description) -> float:
    """Return the mean of the share of darkness around the things, within a frame, and of the things' hollowness.

    A black background has no frame and is dark without the style, so that only the things count.
    """
    hollow = _outline(seen, description)
    if description.background == "black":
        return hollow
    things = _any([_filled(_has(seen, thing.colour)) for thing in description.things])
    around = ~_grown(things, _EDGE_PX)
    frame = _has(seen, description.background)[around & _frame(seen.shape)]
    dark = _has(seen, "black")[around & ~_outer(seen.shape)]
    return (hollow + _share(frame) * _share(dark)) / 2


def _pastel(seen: Seen, _description: Description) -> float:
    """Return the share of dots that are white, of those with colour on their left and right."""
    rows, columns = np.indices(seen.shape)
    at = np.stack([rows, columns]) % (2 * DOT_PX)
    is_dot = (np.abs(at - (1.5 * DOT_PX - 0.5)) < DOT_PX / 2 - _EDGE_PX).all(axis=0)
    is_white = np.pad(_has(seen, "white"), ((0, 0), (DOT_PX, DOT_PX)), mode="edge")
    between = ~is_white[:, : -2 * DOT_PX] & ~is_white[:, 2 * DOT_PX :]
    return _share(_has(seen, "white")[is_dot & between])


def _outline(seen: Seen, description: Description) -> float:
    """Return the mean hollowness of the things."""
    return float(np.mean([_hollow(_has(seen, thing.colour)) for thing in description.things]))


def _hollow(mask: Mask) -> float:
    """Return the share of what a mask encloses, further inside than an outline reaches, that is not in the mask."""
    inside = ~_grown(~_filled(mask), STROKE_PX + _EDGE_PX)
    return 1 - _share(mask[inside]) if inside.sum() >= _MIN_INSIDE_PX else 0.0


def _checkerboard(seen: Seen, description: Description) -> float:
    """Return the product of the shares of both kinds of cells, where no thing is, that have their colour."""
    rows, columns = np.indices(seen.shape)
    cells = np.stack([rows, columns]) % CELL_PX
    middle = (np.abs(cells - (CELL_PX - 1) / 2) < CELL_PX / 2 - _EDGE_PX).all(axis=0)
    things = _any([_has(seen, thing.colour) for thing in description.things])
    counted = middle & ~_grown(things, _EDGE_PX)
    is_other = (rows // CELL_PX + columns // CELL_PX) % 2 == 1
    own = _has(seen, description.background)[counted & ~is_other]
    other = _has(seen, board_colour(description))[counted & is_other]
    return _share(own) * _share(other)


def _has(seen: Seen, colour: Colour) -> Mask:
    has: Mask = seen == COLOURS.index(colour)
    return has


def _frame(shape: tuple[int, ...]) -> Mask:
    """Return the pixels of a neon frame, without its edges."""
    return _within(shape, FRAME_PX + _EDGE_PX) & ~_within(shape, FRAME_PX + STROKE_PX - _EDGE_PX)


def _outer(shape: tuple[int, ...]) -> Mask:
    """Return the pixels of a neon frame and outside it."""
    return ~_within(shape, FRAME_PX + STROKE_PX + _EDGE_PX)


def _within(shape: tuple[int, ...], distance_px: int) -> Mask:
    mask = np.zeros(shape, dtype=np.bool_)
    mask[distance_px:-distance_px, distance_px:-distance_px] = True
    return mask


def _filled(mask: Mask) -> Mask:
    """Fill what a mask encloses, all but the largest connected area outside it; gaps of two pixels are closed."""
    closed = ~_grown(~_grown(mask, 1), 1)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~closed).astype(np.uint8), connectivity=4)
    if count == 1:
        return closed
    filled: Mask = labels != 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return filled


def _grown(mask: Mask, px: int) -> Mask:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc)) > 0


def _any(masks: list[Mask]) -> Mask:
    union: Mask = np.logical_or.reduce(masks)
    return union


def _share(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else 0.0


_SCORES: dict[Style, Callable[[Seen, Description], float]] = {
    "neon": _neon,
    "pastel": _pastel,
    "outline": _outline,
    "checkerboard": _checkerboard,
}
