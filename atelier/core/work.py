"""How much work a denoising request is, and how long steps take: what routing and scaling are decided by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from atelier.core.denoising import DenoiseRequest
from atelier.core.priority import PRIORITIES, Priority


@dataclass(frozen=True, slots=True)
class Load:
    """The requests of one key and priority in one Denoiser."""

    num_requests: int = 0
    pixel_rows: float = 0
    #: Steps that are left, added over all requests.
    num_steps: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.num_requests + other.num_requests,
            self.pixel_rows + other.pixel_rows,
            self.num_steps + other.num_steps,
        )

    def without(self, other: Load) -> Load:
        """Return what is left without the other, at least nothing."""
        return Load(
            max(self.num_requests - other.num_requests, 0),
            max(self.pixel_rows - other.pixel_rows, 0),
            max(self.num_steps - other.num_steps, 0),
        )


#: Priority and key of requests that take their steps together.
LoadKey = tuple[Priority, Hashable]
Loads = Mapping[LoadKey, Load]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of one request on a Denoiser."""

    #: Requests with equal keys, of one priority, take their steps together.
    key: Hashable
    priority: Priority
    #: Pixels of all rows (one per image and prompt role): a step takes time in proportion to them.
    pixel_rows: float
    num_steps: int
    loras: frozenset[str] = frozenset()

    @property
    def lane(self) -> LoadKey:
        return self.priority, self.key

    @property
    def load(self) -> Load:
        return Load(1, self.pixel_rows, self.num_steps)

    @classmethod
    def of(cls, request: DenoiseRequest) -> Work:
        """Return the work that is left of a request."""
        pass_ = request.pass_
        num_done = 0 if request.resume is None else request.resume.step
        return cls(
            key=(pass_.model, str(pass_.size), pass_.reproducibility),
            priority=request.priority,
            pixel_rows=request.num_rows * pass_.size.num_pixels,
            num_steps=pass_.sampling.num_evaluations - num_done,
            loras=frozenset(lora.id for lora in pass_.loras),
        )


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of a step, as a linear function of its rows."""

    #: Seconds of any step.
    fixed_s: float
    #: Seconds of each pixel of each row.
    pixel_row_s: float

    def of(self, pixel_rows: float) -> float:
        """Return the seconds of a step with so many pixels in all rows."""
        return self.fixed_s + self.pixel_row_s * pixel_rows


#: Until a Denoiser has reported its own: in proportion to that of tiny-sdxl on two cores of a CPU.
UNMEASURED = StepTime(fixed_s=7e-3, pixel_row_s=2.5e-3 / 128**2)


def loads_of(works: Iterable[Work]) -> dict[LoadKey, Load]:
    """Add up the work of requests."""
    loads: dict[LoadKey, Load] = defaultdict(Load)
    for work in works:
        loads[work.lane] += work.load
    return loads


def waiting_s(loads: Loads, step_time: StepTime) -> float:
    """Return the seconds until each request of a Denoiser has finished, added over all requests.

    Keys share the time by the weights of their priorities, and a step advances all requests of its key and priority.
    """
    total_weight = sum(PRIORITIES[priority].weight for priority, _ in loads)
    return sum(
        load.num_steps * step_time.of(load.pixel_rows) * total_weight / PRIORITIES[priority].weight
        for (priority, _), load in loads.items()
    )


def busy_s(loads: Loads, step_time: StepTime) -> float:
    """Return the seconds that a Denoiser needs to finish all requests, if those of a key are equally long."""
    return sum(
        load.num_steps / load.num_requests * step_time.of(load.pixel_rows)
        for load in loads.values()
        if load.num_requests
    )
