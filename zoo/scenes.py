"""The images that the zoo's models learn: flat shapes on a flat background, drawn by a program.

A `Description` holds what a caption expresses: colours, shapes, sizes and places. A `Scene` is one image of it, with
exact positions, radii and rotations. This module does not depend on models or training.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from PIL import Image, ImageDraw

Colour = Literal["red", "green", "blue", "yellow", "purple", "orange", "white", "black"]
Shape = Literal["circle", "square", "triangle", "star", "ring", "cross"]
Size = Literal["small", "medium", "large"]
Place = Literal["left", "right", "top", "bottom", "centre"]

COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
SIZES: tuple[Size, ...] = get_args(Size)
PLACES: tuple[Place, ...] = get_args(Place)
SIDES: tuple[Place, ...] = PLACES[:4]

#: RGB values, 0 … 255, that a model draws for the colour words.
Palette = Mapping[Colour, tuple[int, int, int]]

#: The palette of tiny-sdxl.
RGB: Palette = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (140, 60, 190),
    "orange": (240, 140, 30),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
#: Centre of each place as a fraction of width and height.
ANCHORS: dict[Place, tuple[float, float]] = {
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "top": (0.5, 0.26),
    "bottom": (0.5, 0.74),
    "centre": (0.5, 0.5),
}
#: Smallest and largest radius of an object by its size, as fractions of the image's shorter side.
RADII: dict[Size, tuple[float, float]] = {
    "small": (0.125, 0.15),
    "medium": (0.185, 0.215),
    "large": (0.245, 0.28),
}
#: Largest offset of an object's centre from the anchor of its place, as a fraction of the width and of the height.
JITTER = 0.05
MAX_ROTATION_DEG = 15.0
#: One description in this many is held out from all training, for evaluation.
HELD_OUT_ONE_IN = 40
_SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object, as a caption describes it."""

    colour: Colour
    shape: Shape
    size: Size = "medium"
    #: None if the caption names no place: one object is then in the centre, the first of two left, the second right.
    place: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The content of a caption: one or two objects, the rearmost first, and the background."""

    things: tuple[Thing, ...]
    background: Colour

    @property
    def is_held_out(self) -> bool:
        """Whether the description is held out from training, by a hash of its content."""
        digest = hashlib.sha256(repr(self).encode()).digest()
        return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An object with its exact geometry in a scene."""

    thing: Thing
    #: The place of the object, whether or not the caption names it.
    place: Place
    centre_px: tuple[float, float]
    radius_px: float
    rotation_deg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The content of one image: objects on a background, from the rearmost to the foremost."""

    description: Description
    width: int
    height: int
    placed: tuple[Placed, ...]


def random_description(random: Random, *, num_things: int) -> Description:
    """Return a random description; two objects differ in colour and, if places are named, in place."""
    colours = random.sample(COLOURS, num_things + 1)
    sizes = random.choices(SIZES, weights=(1, 2, 1), k=num_things)
    if num_things == 1:
        places: Sequence[Place | None] = [random.choice((*PLACES, None))]
    else:
        places = _two_places(random) if random.random() < 0.6 else (None, None)
    things = tuple(
        Thing(colour=colour, shape=random.choice(SHAPES), size=size, place=place)
        for colour, size, place in zip(colours, sizes, places, strict=False)
    )
    return Description(things=things, background=colours[-1])


def _two_places(random: Random) -> tuple[Place, Place]:
    """Choose two sides, mostly opposite ones, because large objects on adjacent sides hide much of each other."""
    pairs: list[tuple[Place, Place]] = [("left", "right"), ("top", "bottom")]
    pair = random.choice(pairs) if random.random() < 0.6 else tuple(random.sample(SIDES, 2))
    first, second = random.sample(pair, 2)
    return first, second


def arrange(description: Description, random: Random, *, width: int, height: int) -> Scene:
    """Choose random positions, radii and rotations of the objects in an image of `width` × `height` pixels."""
    default_places: tuple[Place, ...] = ("centre",) if len(description.things) == 1 else ("left", "right")
    placed = []
    for thing, default_place in zip(description.things, default_places, strict=True):
        place = thing.place or default_place
        anchor_x, anchor_y = ANCHORS[place]
        placed.append(
            Placed(
                thing=thing,
                place=place,
                centre_px=(
                    (anchor_x + random.uniform(-JITTER, JITTER)) * width,
                    (anchor_y + random.uniform(-JITTER, JITTER)) * height,
                ),
                radius_px=random.uniform(*RADII[thing.size]) * min(width, height),
                rotation_deg=random.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG),
            )
        )
    return Scene(description=description, width=width, height=height, placed=tuple(placed))


def draw(scene: Scene, palette: Palette = RGB) -> Image.Image:
    """Render the scene as an RGB image with smooth edges."""
    image = Image.new("RGB", (scene.width, scene.height), palette[scene.description.background])
    for placed in scene.placed:
        image.paste(palette[placed.thing.colour], mask=coverage(placed, scene))
    return image


def draw_depth(scene: Scene) -> Image.Image:
    """Render the scene's inverse depth, mode L: near objects are bright, the background is infinitely far.

    All objects are assumed to be equally large, so that the radius in the image is proportional to 1 / distance.
    """
    depth = Image.new("L", (scene.width, scene.height))
    largest_px = RADII["large"][1] * min(scene.width, scene.height)
    for placed in scene.placed:
        depth.paste(round(255 * placed.radius_px / largest_px), mask=coverage(placed, scene))
    return depth


def coverage(placed: Placed, scene: Scene) -> Image.Image:
    """Compute coverage of each pixel by the object, 0 … 255, mode L."""
    size_px = (scene.width, scene.height)
    return silhouette(placed.thing.shape, size_px, placed.centre_px, placed.radius_px, placed.rotation_deg)


def silhouette(
    shape: Shape,
    size_px: tuple[int, int],
    centre_px: tuple[float, float],
    radius_px: float,
    rotation_deg: float,
) -> Image.Image:
    """Compute coverage of each pixel by the shape, 0 … 255, mode L."""
    scale = _SUPERSAMPLING
    mask = Image.new("L", (size_px[0] * scale, size_px[1] * scale))
    pen = ImageDraw.Draw(mask)
    x, y = centre_px[0] * scale, centre_px[1] * scale
    radius = radius_px * scale
    if shape in ("circle", "ring"):
        pen.circle((x, y), radius, fill=255)
        if shape == "ring":
            pen.circle((x, y), 0.55 * radius, fill=0)
    else:
        pen.polygon(_corners(shape, x, y, radius, math.radians(rotation_deg)), fill=255)
    return mask.reduce(scale)


def _corners(shape: Shape, x: float, y: float, radius: float, rotation: float) -> list[tuple[float, float]]:
    """Return the corners (x, y) of a polygonal shape, in pixels; `rotation` is clockwise, in radians."""
    # Distance from the centre in radii, and angle clockwise from straight up.
    polar: list[tuple[float, float]]
    if shape == "square":
        polar = [(1.22, math.pi / 4 + k * math.pi / 2) for k in range(4)]
    elif shape == "triangle":
        polar = [(1.3, k * 2 * math.pi / 3) for k in range(3)]
    elif shape == "star":
        polar = [(1.35 if k % 2 == 0 else 0.56, k * math.pi / 5) for k in range(10)]
    else:
        arm, half = 1.2, 0.38
        outer, lean = math.hypot(arm, half), math.atan2(half, arm)
        polar = [
            corner
            for k in range(4)
            for corner in (
                (outer, k * math.pi / 2 - lean),
                (outer, k * math.pi / 2 + lean),
                (half * math.sqrt(2), k * math.pi / 2 + math.pi / 4),
            )
        ]
    return [
        (
            x + radius * distance * math.sin(angle + rotation),
            y - radius * distance * math.cos(angle + rotation),
        )
        for distance, angle in polar
    ]
