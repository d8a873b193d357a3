"""Params for drawing control maps from images, and for the ControlNets of a generation."""

from __future__ import annotations

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from atelier.core.control import CANNY_THRESHOLDS, MAX_CONTROL_SCALE, CannyThreshold, ControlKind
from atelier.core.params.parsing import MAX_NAME_CHARS, Params
from atelier.core.params.pictures import ImageBytes

_LOW, _HIGH = CANNY_THRESHOLDS


class AnnotateParams(Params):
    """An image and the kind of control map to draw from it."""

    image: ImageBytes = Field(description="PNG, JPEG or WebP.")
    kind: ControlKind = Field(description="Kind of map to draw.")
    low_threshold: CannyThreshold = Field(_LOW, description="Canny only: gradients below it are not edges.")
    high_threshold: CannyThreshold = Field(_HIGH, description="Canny only: gradients above it are edges.")


class ControlParams(Params):
    """One ControlNet of a generation: its id or kind, control map, scale and range of steps."""

    model: str | None = Field(
        None, max_length=MAX_NAME_CHARS, description="Id of a ControlNet from GET /; or send its kind."
    )
    kind: ControlKind | None = Field(
        None, description="Kind of ControlNet; selects the model's ControlNet of that kind."
    )
    image: ImageBytes = Field(description="The control map; with annotate, the image to draw it from.", exclude=True)
    annotate: bool = Field(False, description="Draw the map from the image and return it in control_maps.")
    low_threshold: CannyThreshold = Field(_LOW, description="Canny's low threshold, with annotate.")
    high_threshold: CannyThreshold = Field(_HIGH, description="Canny's high threshold, with annotate.")
    scale: float | None = Field(
        None, ge=0, le=MAX_CONTROL_SCALE, description="Strength; the ControlNet's recommended scale by default."
    )
    start: float = Field(0, ge=0, le=1, description="Share of the steps after which the ControlNet starts to act.")
    end: float = Field(1, ge=0, le=1, description="Share of the steps after which the ControlNet stops.")
    guess_mode: bool = Field(False, description="Follow the map even where the prompt does not describe it.")

    @model_validator(mode="after")
    def _is_consistent(self) -> ControlParams:
        if (self.model is None) == (self.kind is None):
            raise PydanticCustomError("which", "give either model or kind")
        if self.start >= self.end:
            raise PydanticCustomError("window", "start must be below end")
        return self

    @model_serializer(mode="wrap")
    def _without_unused_fields(self, serialize: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Omit `kind` if `model` is set, as a request takes only one, and thresholds that draw no Canny map."""
        fields: dict[str, object] = serialize(self)
        uses_thresholds = self.annotate and self.kind == "canny"
        unused = [] if uses_thresholds else ["low_threshold", "high_threshold"]
        for name in (*unused, *(["kind"] if self.model is not None else [])):
            fields.pop(name, None)
        return fields
