"""The order of requests: which wait, which run, which step aside, and whose step is next.

`Queue` is a value on plain numbers: it has neither threads nor a clock, and knows nothing of tensors. The engine and
`benchmarks/simulate.py` run the same one.

- Requests are admitted in the order in which they are due: the earliest deadline first, where a class of priority
  sets the deadline of a request that has none (`core.priority`). So a request that has waited long enough is first
  whatever its class, and nobody starves.
- A request that does not fit beside the running ones may take the place of those of lower classes that are due later.
  They are parked: they wait, and go on later from where they were.
- A request that does not fit, and may take nobody's place, is overtaken by others that fit, until their cost is that
  of a full batch. Then all wait for it.
- Running requests with equal keys form a lane for each class of priority. Lanes share the time by the weights of
  their classes (`engine.turns`).
- Where not all models fit into memory, those that are there go first, in admission and in turns, until others have
  waited for `_STICKINESS` times as long as bringing their model takes. So switching takes a small share of the time.
- A request does not fit either while the models of running ones leave no room for its own. Then it is overtaken for
  `_OVERTAKEN` of its class's patience at most, so that batches are wide and nobody waits for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from atelier.core.denoising import RequestId
from atelier.core.errors import QueueFull
from atelier.core.priority import PRIORITIES, Priority, is_before
from atelier.engine.turns import Turns

#: A model that has to be brought waits for so many times the time that this takes, while others are there to be run.
_STICKINESS = 10
#: A request whose model has no room is overtaken by others that are due later by this share of its class's patience.
_OVERTAKEN = 0.1


class Lane(NamedTuple):
    """Running requests that take their steps together."""

    priority: Priority
    key: Hashable


class Item(Protocol):
    """A request as the queue sees it. Nothing but `is_ready` and `cost` may change."""

    @property
    def request_id(self) -> RequestId: ...

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can take their steps together."""
        ...

    @property
    def priority(self) -> Priority: ...

    @property
    def due_s(self) -> float:
        """When the request should be finished."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether the request can be admitted."""
        ...

    @property
    def cost(self) -> float:
        """Share of the capacity, in the unit of `max_cost`."""
        ...


I = TypeVar("I", bound=Item)  # noqa: E741 an item


@dataclass(slots=True)
class _Waiting(Generic[I]):
    item: I
    is_parked: bool = False
    #: Cost of the requests that have overtaken this one.
    overtaken_cost: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Running(Generic[I]):
    item: I
    #: Cost at admission.
    cost: float


@dataclass(frozen=True, slots=True)
class Changes(Generic[I]):
    """What `Queue.admit` has decided."""

    #: Requests that step aside, before the others are admitted.
    parked: list[I] = field(default_factory=list)
    #: Requests that run from now on. Those that were parked before go on from where they were.
    admitted: list[I] = field(default_factory=list)


class Queue(Generic[I]):
    """Requests that wait or run."""

    def __init__(
        self,
        *,
        max_waiting: int,
        max_cost: float,
        model_of: Callable[[Hashable], Hashable] = lambda key: key,
        bring_s: Callable[[Hashable], float] = lambda _: 0.0,
        fits: Callable[[Set[Hashable]], bool] = lambda _: True,
    ) -> None:
        """`max_waiting` and `max_cost` are the bounds that `set_limits` changes.

        `model_of` returns the model that requests with a key need, `bring_s` in how many seconds it can be there, and
        `fits` whether memory has room for all of these models at once.
        """
        self._fits = fits
        self._model_of = model_of
        self._bring_s = bring_s
        self._waiting: dict[RequestId, _Waiting[I]] = {}
        self._running: dict[RequestId, _Running[I]] = {}
        self._turns = Turns[Lane]()
        self._max_waiting, self._max_cost = max_waiting, max_cost
        self._is_settled = True

    @property
    def num_waiting(self) -> int:
        """Number of requests that wait, with those that are parked."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Whether a request runs, or could be admitted."""
        return bool(self._running) or any(waiting.item.is_ready for waiting in self._waiting.values())

    def set_limits(self, *, max_waiting: int, max_cost: float) -> None:
        """Bound the number of waiting requests of each priority, and the cost of running ones.

        A request that costs more than `max_cost` runs while nothing else does.
        """
        limits = self._max_waiting, self._max_cost
        self._max_waiting, self._max_cost = max_waiting, max_cost
        if limits != (max_waiting, max_cost):
            self.changed()

    def changed(self) -> None:
        """Look at all requests again at the next `admit`: one has become ready."""
        self._is_settled = False

    def submit(self, item: I) -> None:
        """Let a request wait. Raises QueueFull if too many of its priority do."""
        num_of_class = sum(waiting.item.priority == item.priority for waiting in self._waiting.values())
        if num_of_class >= self._max_waiting:
            raise QueueFull
        self._wait(_Waiting(item))

    def remove(self, request_id: RequestId) -> None:
        """Remove a request that has finished or was cancelled, if it is there."""
        self._waiting.pop(request_id, None)
        if (running := self._running.pop(request_id, None)) is not None:
            self._leave_lane(running.item)
        self.changed()

    def has_begun(self, request_id: RequestId) -> bool:
        """Return whether a request runs or is parked."""
        waiting = self._waiting.get(request_id)
        return request_id in self._running or (waiting is not None and waiting.is_parked)

    def items(self) -> list[I]:
        """Return all requests."""
        waiting = [waiting.item for waiting in self._waiting.values()]
        return waiting + [running.item for running in self._running.values()]

    def admit(self) -> Changes[I]:
        """Let requests run that wait, and park others for them."""
        if self._is_settled:
            return Changes()
        self._is_settled = True
        started: dict[RequestId, _Waiting[I]] = {}
        parked: list[I] = []
        first: _Waiting[I] | None = None
        for waiting in self._in_order():
            item = waiting.item
            # One that costs more runs alone.
            cost = min(item.cost, self._max_cost)
            victims = self._victims(item, cost)
            if victims is None:
                first = first or waiting
                continue
            if first is not None and not victims:
                if not self._may_be_overtaken(first, item, cost):
                    continue
                first.overtaken_cost += cost
            for victim in victims:
                self.remove(victim.request_id)
                as_before = started.pop(victim.request_id, None)
                self._wait(as_before or _Waiting(victim, is_parked=True))
                parked += [] if as_before else [victim]
            self._start(item, cost)
            started[item.request_id] = waiting
        return Changes(parked, [waiting.item for waiting in started.values()])

    def _in_order(self) -> Iterator[_Waiting[I]]:
        """Yield the waiting requests that are ready, in the order of admission.

        A model that has to be brought delays its requests, unless one of them runs by then.
        """
        left = [waiting for waiting in self._waiting.values() if waiting.item.is_ready]
        while left:
            models = self._running_models()
            left.sort(key=lambda waiting: waiting.item.due_s + self._delay_s(waiting.item, models))
            while left and models == self._running_models():
                yield left.pop(0)

    def _may_be_overtaken(self, first: _Waiting[I], item: I, cost: float) -> bool:
        if first.overtaken_cost + cost > self._max_cost:
            return False
        is_late = item.due_s > first.item.due_s + _OVERTAKEN * PRIORITIES[first.item.priority].patience_s
        return not (is_late and self._lacks_room(self._model_of(first.item.key), self._running_models()))

    def _running_models(self) -> Set[Hashable]:
        return {self._model_of(running.item.key) for running in self._running.values()}

    def _delay_s(self, item: I, running_models: Set[Hashable]) -> float:
        model = self._model_of(item.key)
        return 0.0 if model in running_models else _STICKINESS * self._bring_s(model)

    def next_lane(self) -> Lane | None:
        """Return the lane whose step is next; None if nothing runs."""
        return self._turns.next(lambda lane: _STICKINESS * self._bring_s(self._model_of(lane.key)))

    def took(self, lane: Lane, step_s: float) -> None:
        """Record the time of a lane's step."""
        self._turns.took(lane, step_s)

    def _victims(self, item: I, cost: float) -> list[I] | None:
        """Return the running requests whose place a request takes, none if it fits beside all; None if it must wait.

        Those that are due last step aside first.
        """
        lower = [
            running
            for running in self._running.values()
            if is_before(item.priority, running.item.priority) and running.item.due_s > item.due_s
        ]
        lower.sort(key=lambda running: -running.item.due_s)
        of_models = self._victims_of_models(self._model_of(item.key), lower)
        if of_models is None:
            return None
        staying = [running for running in self._running.values() if running not in of_models]
        excess = math.fsum(running.cost for running in staying) + cost - self._max_cost
        victims = [running.item for running in of_models]
        for running in lower:
            if excess <= 0:
                break
            if running not in of_models:
                victims.append(running.item)
                excess -= running.cost
        return victims if excess <= 0 else None

    def _victims_of_models(self, model: Hashable, lower: Sequence[_Running[I]]) -> list[_Running[I]] | None:
        """Return who steps aside so that memory has room for a model; None if it has none beside those that stay."""
        models, victims = set(self._running_models()), list[_Running[I]]()
        for other in dict.fromkeys(self._model_of(running.item.key) for running in lower):
            if not self._lacks_room(model, models):
                break
            users = [running for running in self._running.values() if self._model_of(running.item.key) == other]
            if all(running in lower for running in users):
                models.remove(other)
                victims += users
        return None if self._lacks_room(model, models) else victims

    def _lacks_room(self, model: Hashable, models: Set[Hashable]) -> bool:
        """Return whether memory has no room for a model beside others."""
        return bool(models) and model not in models and not self._fits(models | {model})

    def _wait(self, waiting: _Waiting[I]) -> None:
        self._waiting[waiting.item.request_id] = waiting
        self.changed()

    def _start(self, item: I, cost: float) -> None:
        del self._waiting[item.request_id]
        self._running[item.request_id] = _Running(item, cost)
        self._turns.join(lane_of(item), PRIORITIES[item.priority].weight)

    def _leave_lane(self, item: I) -> None:
        lane = lane_of(item)
        if all(lane_of(running.item) != lane for running in self._running.values()):
            self._turns.leave(lane)


def lane_of(item: Item) -> Lane:
    """Return the lane in which a request runs."""
    return Lane(item.priority, item.key)
