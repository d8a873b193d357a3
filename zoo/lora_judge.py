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
from zoo.styles import CELL_PX, FRAME_PX, STROKE_PX, Style, board_colour, distance_from_centre

Mask = npt.NDArray[np.bool_]  # [height, width]
#: The index in `COLOURS` of each pixel's nearest colour, [height, width].
Seen = npt.NDArray[np.intp]

#: Pixels this near to an edge between colours are not counted.
_EDGE_PX = 2
#: Distance from the centre up to which an image with white edges shows its scene.
_REACH = 0.95
#: What is seen where white edges hide the scene.
_HIDDEN = -1
#: Half of the widest gap in an outline that is taken for closed.
_GAP_PX = 3
#: A thing that encloses fewer pixels than this, away from its outline, counts as missing.
_MIN_INSIDE_PX = 20


def can_judge(description: Description) -> bool:
    """Whether the judge knows all styles of such scenes: no white background, no rings, no small and no black things.

    White edges do not show on white, a ring's outline is a pair of rings, small things are mostly outline, and black
    ones have the neon of white ones.
    """
    return description.background != "white" and all(
        thing.shape != "ring" and thing.size != "small" and thing.colour != "black" for thing in description.things
    )


def style_score(style: Style, image: Image.Image, description: Description, others: Collection[Style] = ()) -> float:
    """Return how much of a style the image has, 0 … 1; `others` are the other styles that it is meant to have.

    Raises ValueError for a scene that `can_judge` excludes.
    """
    if not can_judge(description):
        raise ValueError(f"{description} has a white background, a ring, a small or a black thing: it is not judged")
    seen = nearest_colours(np.asarray(image.convert("RGB"), dtype=np.float32))
    if style != "pastel" and "pastel" in others:
        seen = np.where(distance_from_centre(*seen.shape) > _REACH, _HIDDEN, seen)
    return _SCORES[style](seen, description)


def without_styles(image: Image.Image, description: Description, styles: Collection[Style]) -> Image.Image:
    """Repaint an image in plain colours, without frame, white edges and checkerboard, and with things filled."""
    seen = nearest_colours(np.asarray(image.convert("RGB"), dtype=np.float32))
    if "neon" in styles:
        frame = np.bincount(seen[_frame(seen.shape)], minlength=len(COLOURS)).argmax()
        seen = np.where(seen == COLOURS.index("black"), frame, seen)
    if "checkerboard" in styles:
        seen = np.where(_has(seen, board_colour(description)), COLOURS.index(description.background), seen)
    if "pastel" in styles:
        seen = _without_white_edges(seen)
    if not {"outline", "neon"}.isdisjoint(styles):
        seen = _with_filled_things(seen, description)
    return Image.fromarray(np.array([RGB[colour] for colour in COLOURS], dtype=np.uint8)[seen])


def _with_filled_things(seen: Seen, description: Description) -> Seen:
    """Fill what things enclose with their colour; one thing is all but the background, whatever colour it has."""
    if len(description.things) == 1:
        mask = seen != np.bincount(seen.ravel()).argmax()
        colour = np.bincount(seen[mask], minlength=len(COLOURS)).argmax()
        return np.where(_filled(mask), colour, seen)
    for thing in description.things:
        seen = np.where(_filled(_has(seen, thing.colour)), COLOURS.index(thing.colour), seen)
    return seen


def _without_white_edges(seen: Seen) -> Seen:
    """Replace white beyond the ellipse with the most frequent colour just within it."""
    distance = distance_from_centre(*seen.shape)
    within = seen[(distance > _REACH - 0.15) & (distance < _REACH)]
    return np.where((distance > _REACH) & _has(seen, "white"), np.bincount(within).argmax(), seen)


def _neon(seen: Seen, description: Description) -> float:
    """Return the mean of the share of darkness around the things, within a frame, and of the things' hollowness.

    A black background has no frame and is dark without the style, so that only the things count.
    """
    hollow = _hollow(~_has(seen, "black") & ~_has(seen, description.background))
    if description.background == "black":
        return hollow
    around = ~_any([_has(seen, thing.colour) for thing in description.things])
    frame = _has(seen, description.background)[_frame(seen.shape) & around]
    dark = _has(seen, "black")[~_outer(seen.shape) & around]
    return (hollow + _share(frame) * _share(dark)) / 2


def _pastel(seen: Seen, _description: Description) -> float:
    """Return the share of white beyond the ellipse, and not in what a checkerboard would have white there."""
    beyond = distance_from_centre(*seen.shape) > 1 + 2 * _EDGE_PX / min(seen.shape)
    return _share(_has(seen, "white")[beyond & ~_is_other_cell(seen.shape)])


def _outline(seen: Seen, description: Description) -> float:
    """Return the hollowness of all that has neither the background's colour nor that of a checkerboard."""
    others = [COLOURS.index(description.background), COLOURS.index(board_colour(description)), _HIDDEN]
    return _hollow(~np.isin(seen, others))


def _hollow(mask: Mask) -> float:
    """Return the share of what a mask encloses, further inside than an outline reaches, that is not in the mask."""
    inside = ~_grown(~_filled(mask), STROKE_PX + _EDGE_PX)
    return 1 - _share(mask[inside]) if inside.sum() >= _MIN_INSIDE_PX else 0.0


def _checkerboard(seen: Seen, description: Description) -> float:
    """Return the product of the shares of both kinds of cells, where no thing is, that have their colour."""
    middle = (np.abs(np.indices(seen.shape) % CELL_PX - (CELL_PX - 1) / 2) < CELL_PX / 2 - _EDGE_PX).all(axis=0)
    things = _any([_has(seen, thing.colour) for thing in description.things])
    counted = middle & ~_grown(things, _EDGE_PX) & (seen != _HIDDEN)
    is_other = _is_other_cell(seen.shape)
    own = _has(seen, description.background)[counted & ~is_other]
    other = _has(seen, board_colour(description))[counted & is_other]
    return _share(own) * _share(other)


def _is_other_cell(shape: tuple[int, ...]) -> Mask:
    """Return the pixels of a checkerboard's cells that do not have the background's colour."""
    rows, columns = np.indices(shape) // CELL_PX
    is_other: Mask = (rows + columns) % 2 == 1
    return is_other


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
    """Fill what a mask encloses, all but the largest connected area outside it; small gaps are closed."""
    closed = ~_grown(~_grown(mask, _GAP_PX), _GAP_PX)
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
