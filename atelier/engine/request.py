"""A request in the batch, from admission to its last step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError
from atelier.engine.samplers import Schedule, StepCoefficients

#: An error ends the stream as `Denoised` does.
Event = StepEvent | Denoised | AtelierError
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request in the inbox, with where its events go."""

    request: DenoiseRequest
    emit: Emit


@dataclass(slots=True, kw_only=True)
class ActiveRequest:
    """An admitted request: its rows are in the batch."""

    arrival: Arrival
    schedule: Schedule
    #: [images, 4, h, w], float32
    latents: torch.Tensor
    #: [rows, 77 · chunks, 2048]; rows are the images, with guidance the unconditional ones first
    prompt_embeds: torch.Tensor
    #: [rows, 77 · chunks]; 1 where a row has a token of its own, 0 where it is shorter than its neighbours
    prompt_mask: torch.Tensor
    #: [rows, 1280]
    pooled_prompt_embeds: torch.Tensor
    step_index: int = 0

    @property
    def step(self) -> StepCoefficients:
        return self.schedule.steps[self.step_index]

    @property
    def is_finished(self) -> bool:
        return self.step_index == len(self.schedule.steps)

    def final_latents(self) -> npt.NDArray[np.float32]:
        """The latents as they leave the engine; raises ArithmeticError if they are not finite."""
        if not torch.isfinite(self.latents).all():
            raise ArithmeticError("the latents are not finite")
        return self.latents.cpu().numpy()
