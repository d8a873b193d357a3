"""Which Denoiser gets a request: the one where it adds the least waiting, for itself and for those that are there.

Requests of equal size meet in one Denoiser, because they share its steps, while another size would take turns with
them. Nothing here knows Ray or the time of day: `benchmarks.simulate` runs the same code as `deployments.routing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from atelier.core.work import UNMEASURED, Loads, StepTime, Work, loads_of, waiting_s

#: Seconds that a LoRA takes from its file; a replica that has it does not need them.
_LOAD_LORA_S = 0.15

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
    #: The reported load that came from elsewhere.
    others: Loads = field(default_factory=dict)

    def added_s(self, work: Work) -> float:
        """Return the waiting that the work adds here, in seconds over all requests."""
        loads, step_time = loads_of(self.works.values()), self.report.step_time
        for key, load in self.others.items():
            loads[key] += load
        before_s = waiting_s(loads, step_time)
        for key, load in loads_of([work]).items():
            loads[key] += load
        num_missing = len(work.loras - set(self.report.loras))
        return waiting_s(loads, step_time) - before_s + num_missing * _LOAD_LORA_S


class Placing(Generic[R]):
    """The work in all replicas, as one Router knows it: its own at any time, that of others when they report it."""

    def __init__(self) -> None:
        self._replicas: dict[R, _Replica] = defaultdict(_Replica)
        #: Where each request's work is.
        self._places: dict[str, R] = {}

    def report(self, name: R, report: Report) -> None:
        """Take what a replica tells of itself."""
        replica = self._replicas[name]
        own = loads_of(replica.works.values())
        others = {key: load.without(own[key]) for key, load in report.loads.items()}
        replica.report = report
        replica.others = {key: load for key, load in others.items() if load.num_requests}

    def remove(self, name: R) -> None:
        """Forget a replica that is gone, with its work."""
        for request_id in self._replicas.pop(name, _Replica()).works:
            del self._places[request_id]

    def place(self, request_id: str, name: R, work: Work) -> None:
        """Count a request's work in a replica, and nowhere else."""
        self.finish(request_id)
        self._places[request_id] = name
        self._replicas[name].works[request_id] = work

    def finish(self, request_id: str) -> None:
        """Forget a request that has ended, if it was placed."""
        if (name := self._places.pop(request_id, None)) is not None:
            del self._replicas[name].works[request_id]

    def requests_at(self, name: R) -> list[str]:
        """Return the requests that were placed in a replica."""
        return list(self._replicas[name].works) if name in self._replicas else []

    def ranked(self, names: Sequence[R], work: Work) -> list[R]:
        """Return the replicas, the best one first; among equals in the order given."""
        return sorted(names, key=lambda name: self._replicas[name].added_s(work))
