"""The events of a request, in order: the plan, the steps and previews that were asked for, the result."""

from __future__ import annotations

from dataclasses import dataclass

from atelier.catalogue.entries import LatentRgb
from atelier.core.denoising import RequestId
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The request is accepted; no model has seen it yet."""

    request_id: RequestId
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Step `step` of `total` is done, counted from one over all passes of the request."""

    step: int
    total: int
    #: Seconds since the request was planned.
    elapsed_s: float

    @property
    def eta_s(self) -> float:
        """Seconds until the last step is done, at the speed so far."""
        return self.elapsed_s / self.step * (self.total - self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Previews of the images after a step."""

    #: Number of previews before this one.
    index: int
    #: Encoded files, one per image.
    files: tuple[bytes, ...]


Event = Planned | Step | Preview | Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """The events that a consumer wants besides the plan and the result."""

    steps: bool = False
    #: Whether only steps are reported whose events come anyhow: with a preview, or about once a second.
    are_steps_sparse: bool = False
    num_previews: int = 0
    #: The model's projection from latents to RGB, from the catalogue, for previews that arrive as latents.
    latent_rgb: LatentRgb | None = None
