from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from zoo.captions import canonical, random_wording
from zoo.judge import judge
from zoo.pony import PALETTE
from zoo.scenes import COLOURS, RGB, SHAPES, Description, Thing, arrange, draw, random_description


def test_canonical_captions() -> None:
    one = Description(things=(Thing(colour="red", shape="circle", size="small", place="left"),), background="blue")
    two = Description(
        things=(Thing(colour="green", shape="star"), Thing(colour="white", shape="ring", size="large", place="top")),
        background="black",
    )
    assert canonical(one) == "a small red circle on the left, blue background"
    assert canonical(two) == "a green star and a large white ring at the top, black background"


def test_every_wording_names_every_colour() -> None:
    random = Random(0)
    for _ in range(200):
        description = random_description(random, num_things=random.choice((1, 2)))
        wording = random_wording(description, random)
        assert all(thing.colour in wording for thing in description.things)
        assert description.background in wording


def test_equal_seeds_draw_equal_images() -> None:
    first, second = (
        draw(arrange(random_description(Random(5), num_things=2), Random(6), width=96, height=72)) for _ in range(2)
    )
    assert first.size == (96, 72)
    assert first.tobytes() == second.tobytes()


def test_colours_are_exact_and_later_things_are_in_front() -> None:
    things = (Thing(colour="red", shape="square", size="large"), Thing(colour="green", shape="square", size="large"))
    scene = arrange(Description(things=things, background="white"), Random(1), width=128, height=128)
    pixels = np.asarray(draw(scene))
    x, y = map(int, scene.placed[1].centre_px)
    assert tuple(pixels[y, x]) == RGB["green"]
    assert tuple(pixels[0, 0]) == RGB["white"]


@pytest.mark.zoo
def test_about_one_description_in_forty_is_held_out() -> None:
    random = Random(2)
    held_out = sum(random_description(random, num_things=2).is_held_out for _ in range(8000))
    assert 120 < held_out < 280


@pytest.mark.zoo
@pytest.mark.parametrize("num_things", [1, 2])
def test_judge_accepts_drawn_scenes(num_things: int) -> None:
    random = Random(7)
    for _ in range(60):
        description = random_description(random, num_things=num_things)
        assert judge(draw(arrange(description, random, width=128, height=128)), description).is_right


@pytest.mark.zoo
def test_judge_detects_each_wrong_attribute() -> None:
    drawn = Thing(colour="red", shape="circle", place="left")
    image = draw(arrange(Description(things=(drawn,), background="white"), Random(8), width=128, height=128))

    def verdict_on(background: str, **asked: str) -> tuple[bool, bool, bool, bool | None]:
        thing = Thing(**{"colour": "red", "shape": "circle", "place": "left", **asked})  # type: ignore[arg-type]
        verdict = judge(image, Description(things=(thing,), background=background))  # type: ignore[arg-type]
        [seen] = verdict.things
        return verdict.background, seen.colour, seen.shape, seen.place

    assert verdict_on("white") == (True, True, True, True)
    assert verdict_on("blue")[0] is False
    for colour in set(COLOURS) - {"red"}:
        assert verdict_on("white", colour=colour)[1] is False
    for shape in set(SHAPES) - {"circle"}:
        assert verdict_on("white", shape=shape)[2] is False
    assert verdict_on("white", place="top")[3] is False


def test_images_in_another_palette_are_right_in_that_palette_alone() -> None:
    random = Random(9)
    colours = list(COLOURS)
    for background, colour in zip(colours, colours[1:] + colours[:1], strict=True):
        description = Description(things=(Thing(colour=colour, shape="square"),), background=background)
        scene = arrange(description, random, width=96, height=96)
        for palette, other in ((RGB, PALETTE), (PALETTE, RGB)):
            assert judge(draw(scene, palette), description, palette).is_right
            verdict = judge(draw(scene, palette), description, other)
            assert (verdict.background, verdict.things[0].colour) == (False, False)


def test_judge_rejects_a_faded_colour_that_is_nearest_to_the_right_one() -> None:
    thing = Thing(colour="red", shape="square", size="large")
    scene = arrange(Description(things=(thing,), background="white"), Random(2), width=96, height=96)
    for red, is_right in (((220, 40, 40), True), ((235, 55, 55), True), ((250, 90, 90), False)):
        verdict = judge(draw(scene, {**RGB, "red": red}), scene.description)
        assert verdict.things[0].colour is is_right
        assert verdict.background


def test_judge_finds_nothing_in_an_empty_image() -> None:
    empty = Image.new("RGB", (128, 128), RGB["white"])
    asked = Description(things=(Thing(colour="red", shape="circle"),), background="white")
    assert judge(empty, asked).things[0].is_right is False
