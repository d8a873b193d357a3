"""Edits of scenes: the instruction says what changes, and nothing else does."""

from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from zoo.edits import Edit, edits
from zoo.scenes import Scene

_EDITS = list(islice(edits(Random(3), width=64, height=64), 300))


def _look(scene: Scene) -> dict[str, str]:
    [thing] = scene.description.things
    return {"background": scene.description.background, "colour": thing.colour, "shape": thing.shape}


def _changed(edit: Edit) -> set[str]:
    after = _look(edit.after)
    return {name for name, value in _look(edit.before).items() if value != after[name]}


def test_one_attribute_changes_and_the_instruction_names_it() -> None:
    for edit in _EDITS:
        [name] = _changed(edit)
        after = _look(edit.after)
        instruction = {
            "background": f"a {after['background']} background",
            "colour": f"a {after['colour']} {after['shape']}",
            "shape": f"a {after['shape']}",
        }[name]
        assert edit.instruction == instruction.replace("a orange", "an orange")


def test_every_attribute_is_edited() -> None:
    assert set().union(*map(_changed, _EDITS)) == {"background", "colour", "shape"}


@pytest.mark.parametrize("field", ["place", "centre_px", "radius_px", "rotation_deg"])
def test_the_thing_stays_where_it_is(field: str) -> None:
    assert all(getattr(edit.before.placed[0], field) == getattr(edit.after.placed[0], field) for edit in _EDITS)


def test_what_is_drawn_is_what_is_described() -> None:
    for edit in _EDITS:
        assert [placed.thing for placed in edit.after.placed] == list(edit.after.description.things)
