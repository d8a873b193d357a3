"""ControlNets in a request: a map that steers, how strongly and when; plain numpy, it travels between deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

#: What a map shows. `depth` needs a model, OpenCV draws the others.
ControlKind = Literal["canny", "softedge", "lineart", "scribble", "depth"]

ControlImage = npt.NDArray[np.uint8]  # [height, width, 3]

MAX_CONTROLS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One ControlNet's part in a request, in diffusers' terms."""

    #: Its id in the catalogue.
    controlnet: str
    #: As large as the picture.
    control_image: ControlImage
    conditioning_scale: float
    #: Shares of the steps between which it acts.
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    #: Act on the rows with the prompt only, weakly in the early layers.
    guess_mode: bool = False

    def acts_at(self, step_index: int, num_steps: int) -> bool:
        """As `controlnet_keep` of diffusers' pipelines."""
        return self.guidance_start <= step_index / num_steps and (step_index + 1) / num_steps <= self.guidance_end
