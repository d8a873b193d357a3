"""The controls of a request: which ControlNet, and the map it reads."""

from __future__ import annotations

from dataclasses import dataclass

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.control import Annotation, Control, ControlImage, ControlKind
from atelier.core.errors import InvalidParameter, NotSupported
from atelier.core.params import ControlParams, Scalar
from atelier.imaging.inputs import read_picture, to_pixels
from atelier.pipeline.stages import Annotated

_MIN_ANNOTATED_PX, _MAX_RATIO = 16, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedControl:
    controlnet: str
    #: How to draw the map; None if the client sent it.
    annotation: Annotation | None
    scale: float
    start: float
    end: float
    guess_mode: bool

    def parameters(self) -> dict[str, Scalar]:
        """Its fields by their names on the wire, without the picture."""
        fields: dict[str, Scalar] = {
            "model": self.controlnet,
            "scale": self.scale,
            "start": self.start,
            "end": self.end,
            "guess_mode": self.guess_mode,
            "annotate": self.annotation is not None,
        }
        if self.annotation is not None and self.annotation.kind == "canny":
            fields["low_threshold"] = self.annotation.low_threshold
            fields["high_threshold"] = self.annotation.high_threshold
        return fields


def plan_control(control: ControlParams, index: int, model: ModelEntry, catalogue: Catalogue) -> PlannedControl:
    """Raises InvalidParameter or NotSupported."""
    entries = catalogue.controlnets_for(model.id)
    entry = next((entry for entry in entries if control.model == entry.id or control.kind == entry.kind), None)
    if entry is None:
        asked, field = (control.model, "model") if control.model is not None else (control.kind, "kind")
        known = ", ".join(f"{entry.id} ({entry.kind})" for entry in entries) or "none"
        raise InvalidParameter(
            f"controls[{index}].{field}: no ControlNet {asked!r} for {model.id}; there are: {known}.",
            param=f"controls[{index}].{field}",
        )
    if control.annotate:
        _check_annotator(entry.kind, index, catalogue)
    return PlannedControl(
        controlnet=entry.id,
        annotation=Annotation(entry.kind, control.low_threshold, control.high_threshold)
        if control.annotate
        else None,
        scale=entry.scale if control.scale is None else control.scale,
        start=control.start,
        end=control.end,
        guess_mode=control.guess_mode,
    )


def control_of(control: PlannedControl, annotated: Annotated) -> Control:
    return Control(
        controlnet=control.controlnet,
        control_image=annotated.control_image,
        controlnet_conditioning_scale=control.scale,
        control_guidance_start=control.start,
        control_guidance_end=control.end,
        guess_mode=control.guess_mode,
    )


def pixels_to_annotate(data: bytes) -> ControlImage:
    """Raises InvalidParameter if it is no picture, or so narrow that a depth model would make it endless."""
    with read_picture(data, param="image") as picture:
        sides = sorted(picture.size)
        if sides[0] < _MIN_ANNOTATED_PX or sides[1] > _MAX_RATIO * sides[0]:
            raise InvalidParameter(
                f"image: of {picture.width}x{picture.height} no map is drawn; sides are at least {_MIN_ANNOTATED_PX} "
                f"pixels, and one at most {_MAX_RATIO} times the other.",
                param="image",
            )
        return to_pixels(picture, width=picture.width, height=picture.height)


def _check_annotator(kind: ControlKind, index: int, catalogue: Catalogue) -> None:
    if kind == "depth" and not any(entry.kind == kind for entry in catalogue.annotators):
        raise NotSupported(f"This server has no annotator for {kind}.", param=f"controls[{index}].annotate")
