"""The ControlNets of a request: control map, scale and range of steps, as numpy data sent between deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from atelier.core.geometry import Size

#: Source of the control maps of each kind: OpenCV, or a model of the catalogue's `annotators`.
CONTROL_KINDS: dict[str, Literal["opencv", "model"]] = {
    "canny": "opencv",
    "softedge": "opencv",
    "lineart": "opencv",
    "scribble": "opencv",
    "depth": "model",
}
if TYPE_CHECKING:
    ControlKind = str
else:
    ControlKind = Literal[tuple(CONTROL_KINDS)]

ControlImage = npt.NDArray[np.uint8]  # [height, width, 3]

#: Location of the ControlNets that a Denoiser calls: its own process, another process of its node, or any node.
TransportName = Literal["in_process", "same_node", "handle"]

MAX_CONTROLS = 4
MAX_CONTROL_SCALE = 2.0

CannyThreshold = Annotated[int, Field(ge=0, le=255)]
#: Canny's default thresholds: gradients above the high one are edges, gradients between the two are edges where they
#: continue one.
CANNY_THRESHOLDS = 100, 200


@dataclass(frozen=True, slots=True)
class Annotation:
    """Settings for drawing a control map from an image."""

    kind: ControlKind
    #: Thresholds of `canny`; other kinds ignore them.
    low_threshold: int = CANNY_THRESHOLDS[0]
    high_threshold: int = CANNY_THRESHOLDS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One ControlNet of a request, with diffusers' parameter names."""

    #: The ControlNet's id in the catalogue.
    controlnet: str
    #: The control map, at the size of the image that is denoised.
    control_image: ControlImage
    controlnet_conditioning_scale: float
    #: Fractions of the steps, 0 … 1, between which the ControlNet acts.
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    #: Whether to act on positive-prompt rows only, with weaker early layers (diffusers' `guess_mode`).
    guess_mode: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.control_guidance_start < self.control_guidance_end <= 1:
            raise ValueError(f"no steps from {self.control_guidance_start} to {self.control_guidance_end}")

    @property
    def size(self) -> Size:
        height, width, _ = self.control_image.shape
        return Size(width=width, height=height)

    def acts_at(self, step_index: int, num_steps: int) -> bool:
        """Return whether the ControlNet acts in a step, by the rule of `controlnet_keep` in diffusers' pipelines."""
        return (
            self.control_guidance_start <= step_index / num_steps
            and (step_index + 1) / num_steps <= self.control_guidance_end
        )
