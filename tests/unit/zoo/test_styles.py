"""Styles of drawn scenes, and the judge's scores of them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
import numpy.typing as npt
import pytest

from zoo.judge import judge
from zoo.lora_judge import can_judge, style_score, without_styles
from zoo.scenes import RGB, Description, Scene, Thing, arrange, coverage, draw, random_description
from zoo.styles import STYLES, Style, board_colour, draw_styled

_COMBINATIONS: list[tuple[Style, ...]] = [
    *((style,) for style in STYLES),
    ("outline", "checkerboard"),
    ("pastel", "checkerboard"),
]


def _scenes(count: int) -> Iterator[Scene]:
    random = Random(9)
    while count:
        description = random_description(random, num_things=random.choice((1, 2)))
        if can_judge(description):
            count -= 1
            yield arrange(description, random, width=128, height=128)


def _pixels(scene: Scene, *styles: Style) -> npt.NDArray[np.uint8]:
    return np.asarray(draw_styled(scene, styles))


def _scene(**thing: object) -> Scene:
    things = (Thing(**{"colour": "red", "shape": "square", "size": "large", **thing}),)  # type: ignore[arg-type]
    return arrange(Description(things=things, background="blue"), Random(3), width=128, height=96)


def test_scene_without_styles_is_the_plain_scene() -> None:
    assert draw_styled(_scene(), ()).tobytes() == draw(_scene()).tobytes()


@pytest.mark.parametrize("styles", _COMBINATIONS, ids="+".join)
def test_styled_scenes_have_only_colours_of_plain_scenes(styles: tuple[Style, ...]) -> None:
    pixels = _pixels(_scene(), *styles).reshape(-1, 3)
    known = (pixels[:, None] == np.array(list(RGB.values()))).all(-1).any(-1)
    assert known.mean() > 0.95  # the others are smooth edges


def test_outline_and_checkerboard_change_either_the_inside_of_things_or_the_background() -> None:
    scene = _scene()
    plain, outline, board = _pixels(scene), _pixels(scene, "outline"), _pixels(scene, "checkerboard")
    covered = np.asarray(coverage(scene.placed[0], scene))
    assert np.array_equal(outline[covered == 0], plain[covered == 0])
    assert (outline[covered == 255] == RGB["blue"]).all(-1).mean() > 0.4
    assert np.array_equal(board[covered == 255], plain[covered == 255])
    assert tuple(board[0, 0]) == RGB["blue"]
    assert tuple(board[0, 40]) == tuple(board[40, 0]) == RGB["white"]


def test_pastel_is_white_beyond_the_ellipse_that_touches_the_sides() -> None:
    plain, pastel = _pixels(_scene()), _pixels(_scene(), "pastel")
    is_white = (pastel == RGB["white"]).all(-1)
    assert is_white.mean() == pytest.approx(1 - np.pi / 4, abs=0.01)
    assert all(is_white[y, x] for y in (0, 95) for x in (0, 127))
    assert np.array_equal(pastel[~is_white], plain[~is_white])


def test_neon_is_black_but_for_outlines_and_a_frame_in_the_colour_of_the_background() -> None:
    neon = _pixels(_scene(), "neon")
    assert tuple(neon[0, 0]) == tuple(neon[48, 64]) == RGB["black"]
    assert tuple(neon[48, 6]) == RGB["blue"]
    assert (neon == RGB["red"]).all(-1).any()
    assert (_pixels(_scene(colour="black"), "neon") == RGB["white"]).all(-1).any()


def test_a_thing_hides_the_neon_of_what_is_behind_it() -> None:
    hidden = Thing(colour="red", shape="circle", size="small", place="centre")
    things = (hidden, Thing(colour="green", shape="square", size="large", place="centre"))
    scene = arrange(Description(things=things, background="blue"), Random(1), width=128, height=128)
    assert not (_pixels(scene, "neon") == RGB["red"]).all(-1).any()
    assert (_pixels(scene, "outline") == RGB["red"]).all(-1).any()


def test_checkerboard_has_a_colour_that_nothing_else_has() -> None:
    assert board_colour(Description(things=(Thing(colour="red", shape="star"),), background="blue")) == "white"
    assert board_colour(Description(things=(Thing(colour="red", shape="star"),), background="white")) == "black"
    things = (Thing(colour="white", shape="star"), Thing(colour="yellow", shape="star"))
    assert board_colour(Description(things=things, background="black")) == "blue"


@pytest.mark.zoo
@pytest.mark.parametrize("style", STYLES)
def test_plain_scenes_have_none_of_a_style(style: Style) -> None:
    scores = [style_score(style, draw(scene), scene.description) for scene in _scenes(40)]
    assert np.mean(scores) < 0.05  # things that enclose something between them count as outlines
    assert np.median(scores) == 0


@pytest.mark.zoo
@pytest.mark.parametrize("styles", _COMBINATIONS, ids="+".join)
def test_styled_scenes_have_all_of_their_styles_and_show_the_rest(styles: tuple[Style, ...]) -> None:
    drawn = [(draw_styled(scene, styles), scene.description) for scene in _scenes(40)]
    for style in styles:
        assert np.mean([style_score(style, image, description, styles) for image, description in drawn]) > 0.9
    right = [judge(without_styles(image, description, styles), description).is_right for image, description in drawn]
    assert np.mean(right) > 0.8  # outlines that cross are not filled


@pytest.mark.zoo
@pytest.mark.parametrize(("style", "other"), [("pastel", "checkerboard"), ("checkerboard", "outline")])
def test_one_style_is_not_taken_for_another(style: Style, other: Style) -> None:
    drawn = [(draw_styled(scene, (other,)), scene.description) for scene in _scenes(40)]
    assert np.mean([style_score(style, image, description) for image, description in drawn]) < 0.05


@pytest.mark.zoo
def test_outlines_in_the_light_are_half_of_neon() -> None:
    outline: list[Style] = ["outline"]
    drawn = [(draw_styled(scene, outline), scene.description) for scene in _scenes(40)]
    assert 0.4 < np.mean([style_score("neon", image, description) for image, description in drawn]) < 0.7


@pytest.mark.zoo
@pytest.mark.parametrize("styles", _COMBINATIONS, ids="+".join)
def test_wrong_attribute_shows_through_a_style(styles: tuple[Style, ...]) -> None:
    image = draw_styled(_scene(place="left"), styles)

    def is_right(background: str = "blue", **asked: object) -> bool:
        thing = Thing(**{"colour": "red", "shape": "square", "place": "left", **asked})  # type: ignore[arg-type]
        description = Description(things=(thing,), background=background)  # type: ignore[arg-type]
        return judge(without_styles(image, description, styles), description).is_right

    assert is_right()
    assert not is_right(background="green")
    assert not is_right(colour="yellow")
    assert not is_right(shape="star")
    assert not is_right(place="right")


@pytest.mark.parametrize("thing", [{"shape": "ring"}, {"size": "small"}, {"colour": "black"}])
def test_scenes_whose_styles_look_like_others_are_not_judged(thing: dict[str, object]) -> None:
    scene = _scene(**thing)
    with pytest.raises(ValueError, match="a white background, a ring"):
        style_score("outline", draw(scene), scene.description)
    assert not can_judge(Description(things=(Thing(colour="red", shape="star"),), background="white"))
