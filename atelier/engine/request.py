"""States of a request in the engine: submitted and waiting, then running until its last step.

The key of a request decides with which others it may share UNet calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch

from atelier.control.calls import ControlContext
from atelier.core.conditioning import Floats, Role
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.core.errors import AtelierError
from atelier.core.geometry import Size
from atelier.core.origin import Origin
from atelier.core.priority import PRIORITIES, Priority
from atelier.core.snapshot import Snapshot
from atelier.engine.readback import Finite
from atelier.engine.schedules import ALPHA, B1, B2, SIGMA, S, Schedule
from atelier.families.family import Adapter, Forms
from atelier.models.transfer import uploaded

#: One event of a request: a `StepEvent`, or, as the last event, `Denoised` or an error.
Event = StepEvent | Denoised | AtelierError
#: Receives the events of a request, in the engine's thread.
Emit = Callable[[Event], None]


#: Rank of LoRAs whose factors take as much time as the row without them (benchmarks/lora.py).
_RANK_OF_A_ROW = 185
#: Share of a row's time that each 77-token chunk after the first adds: 16 rows of the zoo's UNet took 3.94 ms per row
#: with one chunk and 4.71 ms with eight.
_CHUNK_COST = 0.03


class Loading(Protocol):
    """The future of something that is being loaded."""

    def done(self) -> bool: ...

    def add_done_callback(self, fn: Callable[[object], object], /) -> None: ...


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Key of rows (one per image and prompt role); rows share a UNet call if and only if their keys are equal."""

    model: str
    size: Size
    #: Number of 77-token prompt chunks of an `exact` request, because its bits depend on the padded prompt length;
    #: None for `fast` requests, which share calls whatever their prompt lengths.
    exact_chunks: int | None
    #: Ids of the LoRAs of an `exact` request, because its bits depend on the rank of all their factors; empty for
    #: `fast` requests, which share calls whatever their LoRAs.
    exact_loras: tuple[str, ...]

    @classmethod
    def of(cls, request: DenoiseRequest) -> BatchKey:
        """Return the key of a request's rows."""
        is_exact = request.pass_.reproducibility == "exact"
        return cls(
            model=request.pass_.model,
            size=request.pass_.size,
            exact_chunks=request.num_chunks if is_exact else None,
            exact_loras=tuple(lora.id for lora in request.pass_.loras) if is_exact else (),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Submitted:
    """A request as it was submitted, and the function that receives its events."""

    request: DenoiseRequest
    emit: Emit
    #: Time of the submission, on the engine's clock.
    submitted_s: float = 0.0
    #: The request's LoRAs, in the order of its pass.
    adapters: tuple[Future[Adapter], ...] = ()
    #: What its rows cost without LoRAs; a row of the model's default size with one chunk costs 1.
    plain_cost: float = 1.0
    #: The model, if it is not known to be loaded.
    model: Loading | None = None
    key: BatchKey = field(init=False)
    #: One context per control of the request, in the order of the controls; hashed here, outside of the step loop.
    control_contexts: tuple[ControlContext, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", BatchKey.of(self.request))
        embeds = self.request.embeds
        contexts = (ControlContext.of(one.controlnet, one.control_image, embeds) for one in self.request.controls)
        object.__setattr__(self, "control_contexts", tuple(contexts))

    @property
    def request_id(self) -> RequestId:
        return self.request.request_id

    @property
    def is_ready(self) -> bool:
        """Whether the request can be admitted, or fails because its model or a LoRA could not be loaded."""
        return all(loading.done() for loading in self.loading)

    @property
    def loading(self) -> tuple[Loading, ...]:
        """The model and the LoRAs, which were asked for when the request was submitted."""
        return self.adapters if self.model is None else (self.model, *self.adapters)

    @property
    def cost(self) -> float:
        """Share of the engine's capacity, in rows of the model's default size without LoRAs."""
        loaded = [adapter.result() for adapter in self.adapters if adapter.done() and adapter.exception() is None]
        return self.plain_cost * (1 + sum(adapter.unet_rank for adapter in loaded) / _RANK_OF_A_ROW)

    @property
    def priority(self) -> Priority:
        return self.request.priority

    @property
    def due_s(self) -> float:
        """Time at which the request should be finished; at once, if the replica was lost that had it before."""
        if self.request.is_repeated:
            return self.submitted_s
        due_s = self.submitted_s + PRIORITIES[self.priority].patience_s
        return min(due_s, self.end_s) if self.request.has_deadline else due_s

    @property
    def end_s(self) -> float:
        """Time at which the request's limit is reached, on the engine's clock."""
        limit_s = self.request.time_limit_s
        return math.inf if limit_s is None else self.submitted_s + limit_s


def plain_cost(request: DenoiseRequest, default_size: Size) -> float:
    """Return what a request's rows cost without LoRAs, in rows of `default_size` with a prompt of one chunk."""
    area = request.pass_.size.num_pixels / default_size.num_pixels
    return request.num_rows * area * (1 + _CHUNK_COST * (request.num_chunks - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class InpaintState:
    """Tensors from which inpainting restores the kept part of the images, at the noise level of each step."""

    #: Noise-free latents of the init image, and the noise to add to them, each [images, 4, h, w].
    x0: torch.Tensor
    noise: torch.Tensor
    #: Latent mask, [h, w]; 1 is painted anew, 0 is kept.
    mask: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a step computes for a request."""

    #: The latents after the step and the prediction of x₀ in it, [images, 4, h, w] each.
    latents: torch.Tensor
    denoised: torch.Tensor
    finite: Finite


@dataclass(slots=True, kw_only=True, eq=False)
class RunningRequest:
    """A request in the batch, from admission to its last step: its constants, and its state at a step boundary."""

    submitted: Submitted
    schedule: Schedule
    #: Number of rows (one per image and prompt role), and of 77-token chunks of the longest prompt.
    num_rows: int
    num_chunks: int
    #: One generator per image. The numbers that follow those of `noise` are the noise of the step after the next.
    generators: tuple[torch.Generator, ...]
    #: Noise for the next step, [4, h, w] per image, as far as it is drawn.
    noise: list[torch.Tensor] = field(default_factory=list)
    #: The noisy latents at the current step, [images, 4, h, w], float32.
    latents: torch.Tensor
    #: Predictions of x₀ in the last step and in the step before it, [images, 4, h, w]; zeros if there was none.
    denoised_1: torch.Tensor
    denoised_2: torch.Tensor
    inpaint: InpaintState | None = None
    #: The image to edit, [1, 4, h, w].
    image_latents: torch.Tensor | None = None
    #: Forms in which the request's slots have the changes of its LoRAs, by layer.
    adapter_forms: Forms = field(default_factory=dict)
    #: Weights hashes of the models that have run on the request so far, by name.
    weights: dict[str, str] = field(default_factory=dict)
    #: Seconds from the submission to the admission.
    queue_s: float = 0.0
    #: Time of the admission or, later, of the last snapshot.
    snapshot_s: float = 0.0
    #: Where the steps before this engine's were done; None if it has done all.
    place: str | None = None
    #: Number of steps done.
    step_index: int = 0
    #: What is known of the latents after the last step, and after the step before it; None if there was none.
    finite: Finite | None = None
    finite_before: Finite | None = None
    #: `Schedule.steps` on the device, [steps, 11], float32.
    numbers: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = uploaded(torch.tensor(self.schedule.steps, dtype=torch.float32), self.latents.device)

    def is_finite(self, *, waits: bool) -> bool:
        """Return whether the latents hold neither infinities nor NaN.

        Those after the last step are looked at if the device has done it or if this `waits` for it, otherwise those
        after the step before.
        """
        last = self.finite if waits or (self.finite is not None and self.finite.is_here) else self.finite_before
        return last is None or last.read()

    @property
    def request(self) -> DenoiseRequest:
        return self.submitted.request

    @property
    def num_images(self) -> int:
        return len(self.generators)

    @property
    def is_finished(self) -> bool:
        return self.step_index == len(self.schedule.steps)

    def step_event(self, now_s: float, place: str) -> StepEvent | None:
        """Return the event of the step just done, with a preview and a snapshot if they are due.

        Returns None if nothing is due and steps are not to be reported.
        """
        request, total = self.request, len(self.schedule.steps)
        marks = [round(total * mark / (request.num_previews + 1)) for mark in range(1, request.num_previews + 1)]
        preview = _floats(self.denoised_1) if self.step_index in marks else None
        snapshot = self._snapshot(place) if self._is_snapshot_due(now_s) else None
        if snapshot is not None:
            self.snapshot_s = now_s
        if preview is None and snapshot is None and not request.report_steps:
            return None
        return StepEvent(self.step_index, total, preview, snapshot)

    def origin(self, place: str) -> Origin:
        """Return the origin of the latents, whose last steps were done at `place`."""
        return Origin(place if self.place in (None, place) else f"{self.place}+{place}", self.weights)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot: take its tensors, and draw the noise that was drawn before it."""
        num_draws = int((self.schedule.steps[: snapshot.step, S] != 0).sum())
        for generator in self.generators:
            for _ in range(num_draws):
                torch.randn(self.latents.shape[1:], generator=generator)
        self.latents = self._like_latents(snapshot.latents)
        self.denoised_1 = self._like_latents(snapshot.denoised_1)
        self.denoised_2 = self._like_latents(snapshot.denoised_2)
        self.weights = dict(snapshot.origin.weights)
        self.place = snapshot.origin.place
        self.step_index = snapshot.step

    def _is_snapshot_due(self, now_s: float) -> bool:
        period_s = self.request.snapshot_period_s
        return period_s is not None and not self.is_finished and now_s - self.snapshot_s >= period_s

    def _snapshot(self, place: str) -> Snapshot:
        reads_1, reads_2 = (self.schedule.steps[self.step_index :, [B1, B2]] != 0).any(axis=0)
        return Snapshot(
            step=self.step_index,
            latents=_floats(self.latents),
            denoised_1=_floats(self.denoised_1) if reads_1 or reads_2 else None,
            denoised_2=_floats(self.denoised_2) if reads_2 else None,
            origin=self.origin(place),
        )

    def _like_latents(self, floats: Floats | None) -> torch.Tensor:
        return torch.zeros_like(self.latents) if floats is None else torch.tensor(floats).to(self.latents)

    def draw_noise(self) -> torch.Tensor | None:
        """Return standard normal noise for the next step, [images, 4, h, w], on the CPU; None if it adds no noise.

        The noise is kept until the step is done, so that a step that is taken again has the same noise.
        """
        if self.schedule.steps[self.step_index, S] == 0:
            return None
        for generator in self.generators[len(self.noise) :]:
            self.noise.append(torch.randn(self.latents.shape[1:], generator=generator))
        return torch.stack(self.noise)

    def restored(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents after the next step with what the mask keeps overwritten, if there is a mask.

        The kept part is the init image at the noise level after the step.
        """
        if self.inpaint is None:
            return latents
        next_step = self.step_index + 1
        is_last = next_step == len(self.schedule.steps)
        alpha, sigma = (1.0, 0.0) if is_last else self.schedule.steps[next_step, [ALPHA, SIGMA]].tolist()
        kept = alpha * self.inpaint.x0 + sigma * self.inpaint.noise
        return torch.where(self.inpaint.mask > 0, latents, kept)

    def image_latents_of(self, role: Role) -> torch.Tensor | None:
        """Return the image to edit as the UNet reads it in the rows of a role, [1, 4, h, w]: zeros in negative ones.

        Returns None for models that do not edit.
        """
        if self.image_latents is None or role != "negative":
            return self.image_latents
        return torch.zeros_like(self.image_latents)

    def commit(self, state: StepState) -> None:
        """Complete the step that led to `state`. Only assigns, so that it cannot fail halfway."""
        self.latents, self.denoised_1, self.denoised_2 = state.latents, state.denoised, self.denoised_1
        self.finite, self.finite_before = state.finite, self.finite
        self.noise = []
        self.step_index += 1


def _floats(tensor: torch.Tensor) -> Floats:
    floats: Floats = tensor.cpu().contiguous().numpy()
    return floats


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal noise [images, *shape] on the CPU, one generator per image, as diffusers does."""
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])
