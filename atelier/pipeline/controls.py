"""Resolves the controls of a request to ControlNets, and checks images that control maps are drawn from."""

from __future__ import annotations

from atelier.catalogue.capabilities import Supported
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.control import CONTROL_KINDS, Annotation, Control, ControlImage, ControlKind
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.geometry import Size
from atelier.core.params.controls import AnnotateParams, ControlParams

_MIN_ANNOTATED_PX, _MAX_RATIO = 16, 4


def resolve_control(
    control: ControlParams, index: int, model: ModelEntry, catalogue: Catalogue, supported: Supported
) -> ControlParams:
    """Fill in the ControlNet's id, kind and scale of a control. Raises InvalidParameter or NotSupported."""
    supported.check("control", param=f"controls[{index}]")
    entries = catalogue.controlnets_for(model.id)
    entry = next((entry for entry in entries if control.model == entry.id or control.kind == entry.kind), None)
    if entry is None:
        asked, field = (control.model, "model") if control.model is not None else (control.kind, "kind")
        known = ", ".join(f"{entry.id} ({entry.kind})" for entry in entries)
        raise InvalidParameter(
            f"controls[{index}].{field}: no ControlNet {asked!r} for {model.id}; there are: {known}.",
            param=f"controls[{index}].{field}",
        )
    if control.annotate:
        _check_annotator(entry.kind, index, catalogue)
    scale = entry.scale if control.scale is None else control.scale
    return control.model_copy(update={"model": entry.id, "kind": entry.kind, "scale": scale})


def annotation_of(params: ControlParams | AnnotateParams) -> Annotation:
    """Return the settings for drawing the control map of a resolved control or of an annotate request."""
    assert params.kind is not None
    return Annotation(params.kind, params.low_threshold, params.high_threshold)


def to_control(params: ControlParams, control_image: ControlImage) -> Control:
    """Convert a resolved control and its control map to the `Control` that the engine reads."""
    assert params.model is not None
    assert params.scale is not None
    return Control(
        controlnet=params.model,
        control_image=control_image,
        controlnet_conditioning_scale=params.scale,
        control_guidance_start=params.start,
        control_guidance_end=params.end,
        guess_mode=params.guess_mode,
    )


def check_annotated_size(size: Size) -> None:
    """Raise InvalidParameter if an image is so small or narrow that a depth model could not read it."""
    short, long = sorted((size.width, size.height))
    if short < _MIN_ANNOTATED_PX or long > _MAX_RATIO * short:
        raise InvalidParameter(
            f"image: no control map is drawn from {size}; sides are at least {_MIN_ANNOTATED_PX} pixels, and one at "
            f"most {_MAX_RATIO} times the other.",
            param="image",
        )


def _check_annotator(kind: ControlKind, index: int, catalogue: Catalogue) -> None:
    if CONTROL_KINDS[kind] == "model" and not any(entry.kind == kind for entry in catalogue.annotators):
        raise NotSupported(
            f"This server has no annotator for {kind}; send the control map itself, without annotate.",
            param=f"controls[{index}].annotate",
        )
