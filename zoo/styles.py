"""Styles of scenes, drawn by a program: neon, pastel, outline and checkerboard.

A style changes one aspect of a scene: its light, its paleness, the filling of things, or the background. So styles
combine, and whatever a style does not change still follows the caption. All of them use the colours of plain scenes,
because tiny-sdxl's VAE renders no others: an image becomes paler by the white around it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from zoo.scenes import RGB, Colour, Description, Placed, Scene, coverage

Style = Literal["neon", "pastel", "outline", "checkerboard"]

STYLES: tuple[Style, ...] = get_args(Style)

#: Side of a checkerboard's cells, and width of outlines, in pixels.
CELL_PX, STROKE_PX = 32, 6
#: Distance of a neon frame's outer edge from the image's border, in pixels.
FRAME_PX = 4
#: Second colours of checkerboards; the first that nothing else in the scene has is taken.
_BOARD_COLOURS: tuple[Colour, ...] = ("white", "black", "yellow", "blue")


def board_colour(description: Description) -> Colour:
    """Return the colour that alternates with the background's on a checkerboard."""
    taken = {description.background, *(thing.colour for thing in description.things)}
    return next(colour for colour in _BOARD_COLOURS if colour not in taken)


def draw_styled(scene: Scene, styles: Collection[Style]) -> Image.Image:
    """Render the scene in all of the styles as an RGB image; without styles, as `zoo.scenes.draw` does.

    - neon: glowing outlines in the dark, and a frame in the background's colour; black things glow white
    - pastel: white beyond the ellipse that touches the image's sides
    - outline: things without their insides
    - checkerboard: cells of the background's colour alternate with those of `board_colour`
    """
    image = _background(scene, styles)
    for placed in scene.placed:
        whole, stroke, colour = coverage(placed, scene), _stroke(placed, scene), placed.thing.colour
        if "neon" in styles:
            image.paste(RGB["black"], mask=whole)
            image.paste(RGB["white" if colour == "black" else colour], mask=stroke)
        else:
            image.paste(RGB[colour], mask=stroke if "outline" in styles else whole)
    if "pastel" in styles:
        image.paste(RGB["white"], mask=Image.fromarray(distance_from_centre(scene.height, scene.width) > 1))
    return image


def distance_from_centre(height: int, width: int) -> npt.NDArray[np.float64]:
    """Return each pixel's distance from the centre, [height, width], 1 on the ellipse that touches the sides."""
    y, x = np.ogrid[-1 + 1 / height : 1 - 1 / height : height * 1j, -1 + 1 / width : 1 - 1 / width : width * 1j]
    return np.hypot(x, y)


def _background(scene: Scene, styles: Collection[Style]) -> Image.Image:
    colour = RGB[scene.description.background]
    image = Image.new("RGB", (scene.width, scene.height), RGB["black"] if "neon" in styles else colour)
    if "checkerboard" in styles:
        rows, columns = np.indices((scene.height, scene.width)) // CELL_PX
        image.paste(RGB[board_colour(scene.description)], mask=Image.fromarray((rows + columns) % 2 == 1))
    if "neon" in styles:
        frame = (FRAME_PX, FRAME_PX, scene.width - FRAME_PX - 1, scene.height - FRAME_PX - 1)
        ImageDraw.Draw(image).rectangle(frame, outline=colour, width=STROKE_PX)
    return image


def _stroke(placed: Placed, scene: Scene) -> Image.Image:
    """Compute coverage of each pixel by the thing's outline, which lies within the thing, 0 … 255, mode L."""
    whole = np.asarray(coverage(placed, scene))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * STROKE_PX + 1, 2 * STROKE_PX + 1))
    inside = np.asarray(cv2.erode(whole, disc, borderType=cv2.BORDER_CONSTANT, borderValue=255))
    return Image.fromarray(whole - inside)
