"""Which Denoiser gets a request: the one where it adds the least waiting, for itself and for those that are there.

Requests of equal size meet in one Denoiser, because they share its steps, while another size would take turns with
them. Nothing here knows Ray or the time of day: `benchmarks.simulate` runs the same code as `deployments.routing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atelier.core.priority import PRIORITIES
from atelier.core.work import UNMEASURED, Load, LoadKey, Loads, StepTime, Work

#: Seconds that a LoRA takes from its file; a replica that has it does not need them.
_LOAD_LORA_S = 0.15

_NO_LOAD = Load()

R = TypeVar("R", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a Denoiser has told of itself."""

    loads: Loads = field(default_factory=dict)
    loras: Collection[str] = ()
    step_time: StepTime = UNMEASURED


@dataclass(slots=True)
class _Replica:
    """What is known of one replica."""

    report: Report = field(default_factory=Report)
    #: The work that was placed here, by request.
    works: dict[str, Work] = field(default_factory=dict)
    #: The load of that work, and of what came from elsewhere.
    own: dict[LoadKey, Load] = field(default_factory=lambda: defaultdict(Load))
    others: Loads = field(default_factory=dict)
    #: Both together, and their weight and weighted time as `added_s` reads them.
    loads: dict[LoadKey, Load] = field(default_factory=dict)
    weight: float = 0.0
    weighted_s: float = 0.0

    def put(self, request_id: str, work: Work) -> None:
        self.works[request_id] = work
        self.own[work.lane] += work.load
        self.changed()

    def take(self, request_id: str) -> None:
        work = self.works.pop(request_id)
        self.own[work.lane] = self.own[work.lane].without(work.load)
        if not self.own[work.lane].num_requests:
            del self.own[work.lane]
        self.changed()

    def changed(self) -> None:
        """Add up the loads again."""
        self.loads = dict(self.own)
        for key, load in self.others.items():
            self.loads[key] = self.loads.get(key, _NO_LOAD) + load
        self.weight = sum(PRIORITIES[priority].weight for priority, _ in self.loads)
        self.weighted_s = sum(self._weighted_s(key, load) for key, load in self.loads.items())

    def added_s(self, work: Work) -> float:
        """Return by how much the work would raise `waiting_s` of the loads here, and the time to load its LoRAs."""
        load, weight = self.loads.get(work.lane), self.weight
        others_s = self.weighted_s
        if load is None:
            weight, load = weight + PRIORITIES[work.priority].weight, _NO_LOAD
        else:
            others_s -= self._weighted_s(work.lane, load)
        after_s = weight * (others_s + self._weighted_s(work.lane, load + work.load))
        num_missing = len(work.loras - set(self.report.loras)) if work.loras else 0
        return after_s - self.weight * self.weighted_s + num_missing * _LOAD_LORA_S

    def _weighted_s(self, key: LoadKey, load: Load) -> float:
        return load.num_steps * self.report.step_time.of(load.pixel_rows) / PRIORITIES[key[0]].weight


class Placing(Generic[R]):
    """The work in all replicas, as one Router knows it: its own at any time, that of others when they report it."""

    def __init__(self) -> None:
        self._replicas: dict[R, _Replica] = defaultdict(_Replica)
        #: Where each request's work is.
        self._places: dict[str, R] = {}

    def report(self, name: R, report: Report) -> None:
        """Record the report of a replica. An equal one is its last one again, and older than what is placed now."""
        replica = self._replicas[name]
        if report == replica.report:
            return
        others = {key: load.without(replica.own.get(key, _NO_LOAD)) for key, load in report.loads.items()}
        replica.report = report
        replica.others = {key: load for key, load in others.items() if load.num_requests}
        replica.changed()

    @property
    def names(self) -> Set[R]:
        """The replicas that are known."""
        return self._replicas.keys()

    def remove(self, name: R) -> None:
        """Forget a replica that is gone, with its work."""
        for request_id in self._replicas.pop(name, _Replica()).works:
            del self._places[request_id]

    def place(self, request_id: str, name: R, work: Work) -> None:
        """Count a request's work in a replica, and nowhere else."""
        self.finish(request_id)
        self._places[request_id] = name
        self._replicas[name].put(request_id, work)

    def finish(self, request_id: str) -> None:
        """Forget a request that has ended, if it was placed."""
        if (name := self._places.pop(request_id, None)) is not None:
            self._replicas[name].take(request_id)

    def is_placed(self, request_id: str) -> bool:
        """Return whether a request's work counts anywhere."""
        return request_id in self._places

    def requests_at(self, name: R) -> list[str]:
        """Return the requests that were placed in a replica."""
        return list(self._replicas[name].works) if name in self._replicas else []

    def ranked(self, names: Sequence[R], work: Work) -> list[R]:
        """Return the replicas, the best one first; among equals in the order given."""
        return sorted(names, key=lambda name: self.added_s(name, work))

    def added_s(self, name: R, work: Work) -> float:
        """Return the waiting that a work would add in a replica, in seconds over all requests."""
        return self._replicas[name].added_s(work)
