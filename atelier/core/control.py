"""ControlNets in a request: a map that steers, how strongly and when; plain numpy, it travels between deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

#: What a map shows. `depth` needs a model, OpenCV draws the others.
ControlKind = Literal["canny", "softedge", "lineart", "scribble", "depth"]

ControlImage = npt.NDArray[np.uint8]  # [height, width, 3]

#: How a Denoiser reaches ControlNets: they are in its process, in another one of its node, or anywhere.
TransportName = Literal["in_process", "same_node", "handle"]

MAX_CONTROLS = 4
#: Of canny: gradients above the second are edges, and those above the first that continue an edge.
CANNY_THRESHOLDS = 100, 200


@dataclass(frozen=True, slots=True)
class Annotation:
    """How a map is drawn from a picture."""

    kind: ControlKind
    #: Of canny.
    low_threshold: int = CANNY_THRESHOLDS[0]
    high_threshold: int = CANNY_THRESHOLDS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One ControlNet's part in a request, in diffusers' terms."""

    #: Its id in the catalogue.
    controlnet: str
    #: As large as the picture.
    control_image: ControlImage
    controlnet_conditioning_scale: float
    #: Shares of the steps between which it acts.
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    #: Act on the rows with the prompt only, weakly in the early layers.
    guess_mode: bool = False

    def acts_at(self, step_index: int, num_steps: int) -> bool:
        """As `controlnet_keep` of diffusers' pipelines."""
        return (
            self.control_guidance_start <= step_index / num_steps
            and (step_index + 1) / num_steps <= self.control_guidance_end
        )
