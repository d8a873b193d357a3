from __future__ import annotations

import pytest

from atelier.core.errors import InvalidParameter
from atelier.core.params import AnnotateParams, ControlParams, parse

_IMAGE = b"an image"


def _control(**fields: object) -> ControlParams:
    return parse(ControlParams, {"image": _IMAGE, **fields})


def test_defaults_of_a_control() -> None:
    control = _control(kind="canny")
    assert (control.scale, control.start, control.end, control.guess_mode) == (None, 0, 1, False)
    assert (control.annotate, control.low_threshold, control.high_threshold) == (False, 100, 200)
    assert (control.model, control.kind) == (None, "canny")


@pytest.mark.parametrize("fields", [{}, {"model": "m", "kind": "canny"}])
def test_a_control_has_either_a_model_or_a_kind(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter, match="give either model or kind"):
        _control(**fields)
    assert _control(model="m").model == "m"


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5)])
def test_a_control_starts_before_it_ends(start: float, end: float) -> None:
    with pytest.raises(InvalidParameter, match="start must be below end"):
        _control(kind="canny", start=start, end=end)
    assert _control(kind="canny", start=end - 0.1, end=end).end == end


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", -0.1),
        ("scale", 2.1),
        ("start", -0.1),
        ("end", 1.1),
        ("low_threshold", -1),
        ("low_threshold", 256),
        ("high_threshold", -1),
        ("high_threshold", 256),
        ("kind", "pose"),
        ("model", "m" * 201),
    ],
)
def test_a_bad_value_of_a_control_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _control(**{"kind": "canny", field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("scale", (0, 2)),
        ("low_threshold", (0, 255)),
        ("high_threshold", (0, 255)),
        ("kind", ("canny", "softedge", "lineart", "scribble", "depth")),
    ],
)
def test_values_of_a_control_up_to_the_bounds_are_taken(field: str, values: tuple[object, ...]) -> None:
    for value in values:
        assert getattr(_control(**{"kind": "canny", field: value}), field) == value


def test_a_serialised_control_can_be_sent_back_with_its_image() -> None:
    resolved = _control(kind="canny", scale=0.5, start=0.1, end=0.9).model_copy(update={"model": "m"})
    assert resolved.model_dump() == {
        "model": "m",
        "annotate": False,
        "scale": 0.5,
        "start": 0.1,
        "end": 0.9,
        "guess_mode": False,
    }
    assert _control(**resolved.model_dump()).model == "m"


def test_thresholds_are_serialised_only_for_canny_maps_that_were_drawn() -> None:
    thresholds = {"low_threshold": 10, "high_threshold": 20}
    assert thresholds.items() <= _control(kind="canny", annotate=True, **thresholds).model_dump().items()
    for fields in ({"kind": "canny"}, {"kind": "depth", "annotate": True}):
        dumped = _control(**fields, **thresholds).model_dump()
        assert not thresholds.keys() & dumped.keys()
        assert dumped["kind"] == fields["kind"]


def test_an_annotation_has_cannys_default_thresholds() -> None:
    params = parse(AnnotateParams, {"image": _IMAGE, "kind": "canny"})
    assert (params.low_threshold, params.high_threshold) == (100, 200)


@pytest.mark.parametrize("missing", ["image", "kind"])
def test_an_annotation_needs_an_image_and_a_kind(missing: str) -> None:
    fields = {"image": _IMAGE, "kind": "canny"}
    del fields[missing]
    with pytest.raises(InvalidParameter, match=f"{missing} is required"):
        parse(AnnotateParams, fields)


def test_a_default_is_written_like_the_same_value_of_a_client() -> None:
    """`parameters` in a file, and the file's bytes, would differ otherwise."""
    for control in (_control(kind="canny"), _control(kind="canny", start=0)):
        assert repr(control.model_dump()["start"]) == "0.0"
