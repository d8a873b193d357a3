"""A simulated Denoiser: the engine's queue, and steps that take the time of a line."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from atelier.core.denoising import RequestId
from atelier.core.priority import PRIORITIES, Priority
from atelier.core.work import Loads, StepTime, Work, loads_of
from atelier.engine.queue import Lane, Queue, lane_of

#: Steps of lanes that take turns are simulated in blocks of so many seconds at most, or single.
_MAX_BLOCK_S = 0.25


@dataclass(slots=True, eq=False, kw_only=True)
class SimulatedRequest:
    """A request on its way through the cluster."""

    request_id: RequestId
    arrival_s: float
    work: Work
    #: In rows of the model's default size.
    cost: float
    steps_left: int
    deadline_s: float = math.inf
    submitted_s: float = 0.0
    is_repeated: bool = False
    is_ready: bool = True

    @property
    def key(self) -> object:
        return self.work.key

    @property
    def priority(self) -> Priority:
        return self.work.priority

    @property
    def due_s(self) -> float:
        if self.is_repeated:
            return self.submitted_s
        return min(self.submitted_s + PRIORITIES[self.priority].patience_s, self.deadline_s)


@dataclass(slots=True)
class Block:
    """Steps of one lane, one after the other."""

    lane: Lane
    start_s: float
    step_s: float
    num_steps: int

    @property
    def end_s(self) -> float:
        return self.start_s + self.num_steps * self.step_s


class Replica:
    """A Denoiser, which knows the time only from its caller."""

    def __init__(self, name: int, step_time: StepTime, *, max_rows: float) -> None:
        self.name = name
        self.step_time = step_time
        self.busy_s = 0.0
        self.block: Block | None = None
        self._queue: Queue[SimulatedRequest] = Queue(max_waiting=10_000, max_cost=max_rows)
        self._lanes: dict[Lane, list[SimulatedRequest]] = defaultdict(list)

    @property
    def num_requests(self) -> int:
        return self._queue.num_waiting + self._queue.num_running

    def requests(self) -> list[SimulatedRequest]:
        return self._queue.items()

    def loads(self) -> Loads:
        return loads_of(request.work for request in self.requests())

    def submit(self, request: SimulatedRequest, now_s: float) -> Block | None:
        """Take a request. Returns the block that runs from now on, or ends earlier than it would have."""
        request.submitted_s = now_s
        self._queue.submit(request)
        if self.block is None:
            return self.start(now_s)
        done = math.floor((now_s - self.block.start_s) / self.block.step_s) + 1
        if done >= self.block.num_steps:
            return None
        self.block.num_steps = done
        return self.block

    def start(self, now_s: float) -> Block | None:
        """Begin the next block, if there is work."""
        changes = self._queue.admit()
        for request in changes.parked:
            self._leave(request)
        for request in changes.admitted:
            self._lanes[lane_of(request)].append(request)
        lane = self._queue.next_lane()
        if lane is None:
            self.block = None
            return None
        requests = self._lanes[lane]
        step_s = self.step_time.of(sum(request.work.pixel_rows for request in requests))
        num_steps = min(request.steps_left for request in requests)
        if len(self._lanes) > 1:
            num_steps = min(num_steps, max(int(_MAX_BLOCK_S / step_s), 1))
        self.block = Block(lane, now_s, step_s, num_steps)
        return self.block

    def finish_block(self) -> list[SimulatedRequest]:
        """End the present block. Returns the requests that have taken their last step."""
        block = self.block
        assert block is not None
        self.busy_s += block.num_steps * block.step_s
        self._queue.took(block.lane, block.num_steps * block.step_s)
        finished = []
        for request in list(self._lanes[block.lane]):
            request.steps_left -= block.num_steps
            if request.steps_left == 0:
                finished.append(request)
                self._leave(request)
                self._queue.remove(request.request_id)
        return finished

    def lose(self, now_s: float) -> Iterable[SimulatedRequest]:
        """Die; returns the requests, each as of its last snapshot, which is a second old on average."""
        if self.block is not None:
            lost_steps = math.ceil(1.0 / self.block.step_s)
            done = max(math.floor((now_s - self.block.start_s) / self.block.step_s) - lost_steps, 0)
            for request in self._lanes[self.block.lane]:
                request.steps_left -= done
        self.block = None
        return self._queue.items()

    def _leave(self, request: SimulatedRequest) -> None:
        lane = lane_of(request)
        self._lanes[lane].remove(request)
        if not self._lanes[lane]:
            del self._lanes[lane]
