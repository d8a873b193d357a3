"""A request in the batch, from admission to its last step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from atelier.control.calls import ControlContext
from atelier.core.denoising import Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import AtelierError
from atelier.engine.schedules import ALPHA, SIGMA, S, Schedule
from atelier.families.sdxl.conditions import PromptConditions

#: An error ends the stream as `Denoised` does.
Event = StepEvent | Denoised | AtelierError
Emit = Callable[[Event], None]


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A request in the inbox, with where its events go."""

    request: DenoiseRequest
    emit: Emit


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What inpainting leaves as it was; it goes through the noise levels with the rest."""

    #: Each [images, 4, h, w].
    x0: torch.Tensor
    noise: torch.Tensor
    #: [h, w]; 1 is painted anew, 0 kept.
    mask: torch.Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class ActiveRequest:
    """An admitted request: its state at a step boundary, and what never changes."""

    arrival: Arrival
    schedule: Schedule
    #: With guidance the unconditional one first.
    prompts: tuple[PromptConditions, ...]
    #: One per image; what it gives next is the next step's noise.
    generators: tuple[torch.Generator, ...]
    #: [images, 4, h, w], float32
    latents: torch.Tensor
    #: The predictions of x₀ of the last two steps, as the latents; zeros before there are any.
    denoised_1: torch.Tensor
    denoised_2: torch.Tensor
    kept: Kept | None = None
    #: Of the request's controls, in their order.
    control_contexts: tuple[ControlContext, ...] = ()
    #: Hashes of the models that took part so far.
    weights: dict[str, str] = field(default_factory=dict)
    step_index: int = 0
    is_finite: bool = True

    @property
    def num_images(self) -> int:
        return len(self.generators)

    @property
    def num_rows(self) -> int:
        return self.num_images * len(self.prompts)

    @property
    def is_finished(self) -> bool:
        return self.step_index == len(self.schedule.steps)

    def event(self) -> StepEvent | None:
        """What is told of the step just done, if anybody listens."""
        request, total = self.arrival.request, len(self.schedule.steps)
        marks = [round(total * mark / (request.num_previews + 1)) for mark in range(1, request.num_previews + 1)]
        if self.step_index in marks:
            return StepEvent(self.step_index, total, self.denoised_1.cpu().numpy())
        return StepEvent(self.step_index, total) if request.wants_steps else None

    def keep_what_is_not_painted(self) -> None:
        """Put the kept part back at the noise level that the latents are at now."""
        if self.kept is None:
            return
        alpha, sigma = (
            (1.0, 0.0) if self.is_finished else self.schedule.steps[self.step_index, [ALPHA, SIGMA]].tolist()
        )
        kept = alpha * self.kept.x0 + sigma * self.kept.noise
        self.latents = torch.where(self.kept.mask > 0, self.latents, kept)

    def noise(self) -> torch.Tensor:
        """Standard noise for this step, as the latents; zeros if the step adds none."""
        if self.schedule.steps[self.step_index, S] == 0:
            return torch.zeros_like(self.latents)
        shape = (1, *self.latents.shape[1:])
        drawn = torch.cat([torch.randn(shape, generator=generator) for generator in self.generators])
        return drawn.to(self.latents.device)
