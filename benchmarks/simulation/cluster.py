"""A simulated cluster: Routers that admit and place requests, replicas that come and go, and a virtual clock."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random
from typing import Literal

from atelier.core.denoising import RequestId
from atelier.core.errors import QueueFull
from atelier.core.work import StepTime, Work, busy_s
from atelier.pipeline.admission import Admission
from atelier.pipeline.placing import Placing, Report
from benchmarks.simulation.arrivals import Arrival
from benchmarks.simulation.replica import Block, Replica, SimulatedRequest
from deployments.scaling import ByWork

Routing = Literal["least-waiting", "two-choices"]

#: Seconds until a dead replica is noticed, as `benchmarks.chaos` measures it.
_NOTICED_S = 1.0
#: Seconds between two looks at the number of replicas.
_TICK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is simulated."""

    num_replicas: int
    step_time: StepTime
    #: Seconds of a request outside of the Denoiser.
    other_s: float = 0.0
    max_rows: float = 32
    default_side: int = 128
    routing: Routing = "least-waiting"
    max_wait_s: float = 60
    #: Mean seconds between two failures of a replica.
    mean_life_s: float = math.inf
    start_s: float = 20.0
    #: Seconds of work that each replica should have; without it, the number of replicas is fixed.
    target_s: float | None = None
    max_replicas: int = 64
    downscale_delay_s: float = 300.0
    seed: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of the requests."""

    #: Priority, latency and the latency on an idle replica, in seconds, of every finished request.
    finished: list[tuple[str, float, float]] = field(default_factory=list)
    num_refused: int = 0
    num_failures: int = 0
    #: Time, number of replicas and number of requests in progress, once per tick.
    history: list[tuple[float, int, int]] = field(default_factory=list)
    busy_s: float = 0.0
    replica_s: float = 0.0
    duration_s: float = 0.0


class Cluster:
    """Runs requests under a virtual clock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = Random(settings.seed)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._replicas: dict[int, Replica] = {}
        self._placing = Placing[int]()
        self._admission = Admission(max_wait_s=settings.max_wait_s, max_unmeasured=64, now_s=lambda: self._now_s)
        self._admitted: dict[RequestId, tuple[AbstractContextManager[Callable[[], None]], Callable[[], None]]] = {}
        self._policy = None if settings.target_s is None else ByWork(settings.target_s)
        self._policy_state: dict[str, float] = {}
        self._wanted = settings.num_replicas
        self._above_since_s = 0.0
        self._is_over = False
        self.outcome = Outcome()

    def run(self, arrivals: Iterator[Arrival]) -> Outcome:
        """Run all requests to their end."""
        for _ in range(self._settings.num_replicas):
            self._add_replica()
        self._await_arrival(arrivals)
        self._tick()
        while self._events and not (self._is_over and not self._admitted):
            self._now_s, _, happen = heapq.heappop(self._events)
            happen()
        self.outcome.duration_s = self._now_s
        self.outcome.busy_s += sum(replica.busy_s for replica in self._replicas.values())
        return self.outcome

    def _at(self, time_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._numbers), happen))

    def _await_arrival(self, arrivals: Iterator[Arrival]) -> None:
        arrival = next(arrivals, None)
        if arrival is None:
            self._is_over = True
            return

        def arrive() -> None:
            self._await_arrival(arrivals)
            self._arrive(arrival)

        self._at(arrival.arrival_s, arrive)

    def _arrive(self, arrival: Arrival) -> None:
        num_rows = arrival.num_images * (2 if arrival.is_guided else 1)
        pixels = arrival.side**2
        work = Work(
            key=arrival.side,
            priority=arrival.priority,
            pixel_rows=num_rows * pixels,
            num_steps=arrival.num_steps,
        )
        admitted = self._admission.admitted(pixels * arrival.num_steps * arrival.num_images, arrival.priority)
        try:
            finish = admitted.__enter__()
        except QueueFull:
            self.outcome.num_refused += 1
            return
        request = SimulatedRequest(
            request_id=RequestId(f"req_{next(self._numbers)}"),
            arrival_s=self._now_s,
            work=work,
            cost=num_rows * pixels / self._settings.default_side**2,
            steps_left=arrival.num_steps,
            deadline_s=math.inf if arrival.deadline_s is None else self._now_s + arrival.deadline_s,
        )
        self._admitted[request.request_id] = admitted, finish
        self._place(request)

    def _place(self, request: SimulatedRequest) -> None:
        if not self._replicas:
            self._at(self._now_s + _TICK_S, lambda: self._place(request))
            return
        replica = self._replicas[self._choose(request.work)]
        self._placing.place(request.request_id, replica.name, request.work)
        if (block := replica.submit(request, self._now_s)) is not None:
            self._await_end(replica, block)

    def _choose(self, work: Work) -> int:
        names = list(self._replicas)
        if self._settings.routing == "least-waiting":
            self._random.shuffle(names)
            return min(names, key=lambda name: self._placing.added_s(name, work))
        some = self._random.sample(names, min(2, len(names)))
        return min(some, key=lambda name: self._replicas[name].num_requests)

    def _await_end(self, replica: Replica, block: Block) -> None:
        num_steps = block.num_steps

        def end() -> None:
            if replica.block is not block or block.num_steps != num_steps:
                return
            for request in replica.finish_block():
                self._finish(request)
            if (following := replica.start(self._now_s)) is not None:
                self._await_end(replica, following)

        self._at(block.end_s, end)

    def _finish(self, request: SimulatedRequest) -> None:
        self._placing.finish(request.request_id)
        admitted, finish = self._admitted.pop(request.request_id)
        finish()
        admitted.__exit__(None, None, None)
        other_s, work = self._settings.other_s, request.work
        alone_s = other_s + work.num_steps * self._settings.step_time.of(work.pixel_rows)
        self.outcome.finished.append((work.priority, other_s + self._now_s - request.arrival_s, alone_s))

    def _add_replica(self) -> None:
        replica = Replica(next(self._numbers), self._settings.step_time, max_rows=self._settings.max_rows)
        self._replicas[replica.name] = replica
        self._placing.report(replica.name, Report(step_time=replica.step_time))
        if self._settings.mean_life_s < math.inf:
            life_s = self._random.expovariate(1 / self._settings.mean_life_s)
            self._at(self._now_s + life_s, lambda: self._lose(replica, is_dead=True))

    def _lose(self, replica: Replica, *, is_dead: bool) -> None:
        """Lose a replica, which has died or is to be stopped; its requests go on in others."""
        if self._replicas.pop(replica.name, None) is None:
            return
        self._placing.remove(replica.name)
        for request in list(replica.lose(self._now_s)):
            again = replace(request, is_repeated=True)
            self._at(self._now_s + (_NOTICED_S if is_dead else 0), lambda again=again: self._place(again))  # type: ignore[misc]
        self.outcome.busy_s += replica.busy_s
        if is_dead:
            self.outcome.num_failures += 1
            self._at(self._now_s + self._settings.start_s, self._add_replica)

    def _tick(self) -> None:
        num_requests = len(self._admitted)
        self.outcome.history.append((self._now_s, len(self._replicas), num_requests))
        self.outcome.replica_s += len(self._replicas) * _TICK_S
        if self._policy is not None:
            self._scale(self._policy)
        if not self._is_over or self._admitted:
            self._at(self._now_s + _TICK_S, self._tick)

    def _scale(self, policy: ByWork) -> None:
        work_s = sum(busy_s(replica.loads(), replica.step_time) for replica in self._replicas.values())
        number, self._policy_state = policy.wanted(work_s, self._now_s, self._policy_state)
        wanted = min(max(math.ceil(number), 1), self._settings.max_replicas)
        if wanted >= self._wanted:
            self._above_since_s = self._now_s
            for _ in range(wanted - self._wanted):
                self._at(self._now_s + self._settings.start_s, self._add_replica)
            self._wanted = wanted
        elif self._now_s - self._above_since_s >= self._settings.downscale_delay_s:
            self._above_since_s = self._now_s
            idle_first = sorted(self._replicas.values(), key=lambda replica: replica.num_requests)
            for replica in idle_first[: min(self._wanted - wanted, len(idle_first) - 1)]:
                self._lose(replica, is_dead=False)
            self._wanted = wanted
