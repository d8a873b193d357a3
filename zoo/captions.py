"""Captions of a `zoo.scenes.Description`: a canonical wording and random alternatives."""

from __future__ import annotations

from random import Random

from zoo.scenes import Description, Place, Thing

PLACE_PHRASES: dict[Place, str] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "centre": "in the centre",
}


def canonical(description: Description) -> str:
    """Return the canonical caption, such as "a small red circle on the left and a blue star, white background"."""
    things = " and ".join(_phrase(thing, article=True) for thing in description.things)
    return f"{things}, {description.background} background"


def colours_only(description: Description) -> str:
    """Return a caption that names only colours, such as "a red shape and a blue shape, white background"."""
    coloured = " and ".join(f"a {thing.colour} shape" for thing in description.things)
    return f"{coloured}, {description.background} background".replace("a orange", "an orange")


def random_wording(description: Description, random: Random) -> str:
    """Return the canonical caption with a probability of 0.55, otherwise one of five other wordings."""
    if random.random() < 0.55:
        return canonical(description)
    things = description.things
    background = description.background
    joined = " and ".join(_phrase(thing, article=True) for thing in things)
    bare = ", ".join(_phrase(thing, article=False) for thing in things)
    wording = random.choice(
        (
            f"{bare}, {background} background",
            f"{joined} on a {background} background",
            f"a picture of {joined}, {background} background",
            f"a {background} background with {joined}",
            colours_only(description),
        )
    )
    return wording.replace("a orange", "an orange")


def _phrase(thing: Thing, *, article: bool) -> str:
    words = ["a"] if article else []
    if thing.size != "medium":
        words.append(thing.size)
    words += [thing.colour, thing.shape]
    if thing.place is not None:
        words.append(PLACE_PHRASES[thing.place])
    return " ".join(words)
