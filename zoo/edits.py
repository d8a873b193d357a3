"""Edits of scenes by instructions, which use the words of captions so that tiny-sdxl's text encoders know them.

Scenes have one thing. "A yellow background" repaints the background, "a blue circle" the circle that is there, and "a
star" gives the thing another shape. Whatever the instruction does not name stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from zoo.scenes import COLOURS, SHAPES, Colour, Description, Scene, Thing, arrange, random_description


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A scene, an instruction, and the scene that it asks for."""

    before: Scene
    instruction: str
    after: Scene

    @property
    def is_held_out(self) -> bool:
        """Whether the scene after the edit is held out from training."""
        return self.after.description.is_held_out


def edits(random: Random, *, width: int, height: int) -> Iterator[Edit]:
    """Yield edits of random scenes without end."""
    while True:
        description = random_description(random, num_things=1)
        yield _edited(arrange(description, random, width=width, height=height), random)


def _edited(before: Scene, random: Random) -> Edit:
    [thing], background = before.description.things, before.description.background
    colour = random.choice([colour for colour in COLOURS if colour not in (thing.colour, background)])
    match random.choice(("background", "colour", "shape")):
        case "background":
            return Edit(
                before=before, instruction=f"{_article(colour)} background", after=_with(before, thing, colour)
            )
        case "colour":
            after = _with(before, replace(thing, colour=colour), background)
            return Edit(before=before, instruction=f"{_article(colour)} {thing.shape}", after=after)
        case _:
            shape = random.choice([shape for shape in SHAPES if shape != thing.shape])
            after = _with(before, replace(thing, shape=shape), background)
            return Edit(before=before, instruction=f"a {shape}", after=after)


def _article(colour: Colour) -> str:
    return f"an {colour}" if colour == "orange" else f"a {colour}"


def _with(scene: Scene, thing: Thing, background: Colour) -> Scene:
    """Return the scene with another thing in the same place, or another background."""
    placed = (replace(scene.placed[0], thing=thing),)
    return replace(scene, description=Description(things=(thing,), background=background), placed=placed)
