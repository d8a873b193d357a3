from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from atelier.catalogue.capabilities import Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.loras import NO_LORAS
from atelier.core.control import Annotation, Control
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.geometry import Size
from atelier.core.params import AnnotateParams, ControlParams, parse
from atelier.pipeline.controls import annotation_of, check_annotated_size, resolve_control, to_control


def _resolved(catalogue: Catalogue, index: int = 0, **fields: Any) -> ControlParams:
    control = parse(ControlParams, {"image": b"x", **fields})
    model = catalogue.models[0]
    return resolve_control(control, index, model, catalogue, Supported.of(model, catalogue, NO_LORAS))


@pytest.mark.parametrize(
    ("fields", "model", "kind"),
    [
        ({"kind": "canny"}, "small-canny", "canny"),
        ({"kind": "depth"}, "small-depth", "depth"),
        ({"model": "small-depth"}, "small-depth", "depth"),
    ],
)
def test_a_control_is_found_by_kind_or_id_and_has_its_recommended_scale(
    small_catalogue: Catalogue, fields: dict[str, Any], model: str, kind: str
) -> None:
    control = _resolved(small_catalogue, **fields)
    assert (control.model, control.kind, control.scale) == (model, kind, 0.8)


@pytest.mark.parametrize("scale", [0, 1.5])
def test_a_scale_that_was_sent_is_kept(small_catalogue: Catalogue, scale: float) -> None:
    assert _resolved(small_catalogue, kind="canny", scale=scale).scale == scale


def test_other_fields_of_a_control_are_kept(small_catalogue: Catalogue) -> None:
    fields: dict[str, Any] = {"start": 0.25, "end": 0.75, "guess_mode": True, "low_threshold": 1, "high_threshold": 2}
    control = _resolved(small_catalogue, kind="canny", **fields)
    assert fields.items() <= dict(control).items()
    assert control.image == b"x"


@pytest.mark.parametrize(
    ("fields", "param", "asked"),
    [({"kind": "scribble"}, "kind", "scribble"), ({"model": "nope"}, "model", "nope")],
)
def test_a_control_that_is_not_served_is_refused_with_the_known(
    small_catalogue: Catalogue, fields: dict[str, Any], param: str, asked: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _resolved(small_catalogue, index=2, **fields)
    assert caught.value.param == f"controls[2].{param}"
    assert str(caught.value) == (
        f"controls[2].{param}: no ControlNet {asked!r} for small-sdxl; there are: small-canny (canny), small-depth "
        "(depth)."
    )


def test_a_server_without_controlnets_refuses_all(small_catalogue: Catalogue) -> None:
    with pytest.raises(NotSupported) as caught:
        _resolved(small_catalogue.model_copy(update={"controlnets": ()}), index=1, kind="canny")
    assert caught.value.param == "controls[1]"
    assert str(caught.value) == (
        "controls[1]: small-sdxl does not support control; it supports text_to_image, image_to_image, inpaint, "
        "previews."
    )


def test_controlnets_of_other_models_are_not_used(small_catalogue: Catalogue) -> None:
    foreign = tuple(entry.model_copy(update={"base": "another"}) for entry in small_catalogue.controlnets)
    with pytest.raises(NotSupported):
        _resolved(small_catalogue.model_copy(update={"controlnets": foreign}), kind="canny")


def test_a_map_that_nothing_draws_is_not_supported(small_catalogue: Catalogue) -> None:
    bare = small_catalogue.model_copy(update={"annotators": ()})
    with pytest.raises(NotSupported, match="no annotator for depth") as caught:
        _resolved(bare, index=1, kind="depth", annotate=True)
    assert caught.value.param == "controls[1].annotate"
    assert _resolved(bare, kind="depth").kind == "depth"
    assert _resolved(bare, kind="canny", annotate=True).annotate
    assert _resolved(small_catalogue, kind="depth", annotate=True).annotate


def test_thresholds_reach_the_annotator() -> None:
    fields: dict[str, object] = {"image": b"x", "kind": "canny", "low_threshold": 10, "high_threshold": 20}
    expected = Annotation("canny", low_threshold=10, high_threshold=20)
    assert annotation_of(parse(AnnotateParams, fields)) == expected
    assert annotation_of(parse(ControlParams, fields)) == expected


def test_a_resolved_control_reaches_the_engine(small_catalogue: Catalogue) -> None:
    fields: dict[str, Any] = {"scale": 0.5, "start": 0.25, "end": 0.75, "guess_mode": True}
    control_image = np.zeros((8, 16, 3), dtype=np.uint8)
    assert to_control(_resolved(small_catalogue, kind="depth", **fields), control_image) == Control(
        controlnet="small-depth",
        control_image=control_image,
        controlnet_conditioning_scale=0.5,
        control_guidance_start=0.25,
        control_guidance_end=0.75,
        guess_mode=True,
    )


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 64), (64, 16)])
def test_images_down_to_16_pixels_and_a_quarter_are_annotated(width: int, height: int) -> None:
    check_annotated_size(Size(width=width, height=height))


@pytest.mark.parametrize(("width", "height"), [(15, 16), (16, 15), (16, 65), (65, 16)])
def test_smaller_and_narrower_images_are_refused(width: int, height: int) -> None:
    with pytest.raises(InvalidParameter, match=f"image: no control map is drawn from {width}x{height}") as caught:
        check_annotated_size(Size(width=width, height=height))
    assert caught.value.param == "image"
