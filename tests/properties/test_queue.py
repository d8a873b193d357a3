"""The queue's promises for any requests, on a machine of plain numbers with a clock of its own.

A step takes a second and advances every request of its lane.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.core.denoising import RequestId
from atelier.core.priority import PRIORITIES, Priority
from atelier.engine.queue import Queue, lane_of

_MAX_COST = 8


@dataclass(eq=False)
class _Item:
    request_id: RequestId
    submitted_s: int
    num_steps: int
    cost: float = 1.0
    priority: Priority = "standard"
    key: str = "key"
    deadline_s: float = inf
    is_ready: bool = True

    @property
    def due_s(self) -> float:
        return min(self.submitted_s + PRIORITIES[self.priority].patience_s, self.deadline_s)


class _Machine:
    """Runs requests in a queue, and checks what must hold at any time."""

    def __init__(self, items: Sequence[_Item], *, bring_s: float = 0.0, num_models: int = 100) -> None:
        """Models are keys; `num_models` may run at once. All but the last that ran take `bring_s` to be brought."""
        self._bring_s = bring_s
        self._num_models = num_models
        self._in_memory: Hashable = None
        self.num_switches = 0
        self._coming = sorted(items, key=lambda item: item.submitted_s)
        self._left = {item.request_id: item.num_steps for item in items}
        self._queue: Queue[_Item] = Queue(
            max_waiting=10_000,
            max_cost=_MAX_COST,
            bring_s=lambda model: 0.0 if model == self._in_memory else self._bring_s,
            fits=lambda models: len(models) <= num_models,
        )
        self._running: dict[RequestId, _Item] = {}
        self._parked: set[RequestId] = set()
        self.now_s = 0
        self.ended_s: dict[RequestId, int] = {}
        self.had_s: dict[Priority, int] = defaultdict(int)

    def run(self, until: RequestId | None = None) -> dict[RequestId, int]:
        """Run all requests, or until one has ended. Returns when each ended."""
        while (self._coming or self._queue.has_work) and until not in self.ended_s:
            while self._coming and self._coming[0].submitted_s <= self.now_s:
                self._queue.submit(self._coming.pop(0))
            self._admit()
            self._step()
            self.now_s += 1
        return self.ended_s

    def _admit(self) -> None:
        changes = self._queue.admit()
        for item in changes.parked:
            del self._running[item.request_id]
            self._parked.add(item.request_id)
        for item in changes.admitted:
            assert item.request_id not in self._running
            self._parked.discard(item.request_id)
            self._running[item.request_id] = item
        costs = [item.cost for item in self._running.values()]
        assert sum(costs) <= _MAX_COST or len(costs) == 1
        assert self._queue.num_running == len(self._running)
        assert len({item.key for item in self._running.values()}) <= self._num_models

    def _step(self) -> None:
        lane = self._queue.next_lane()
        assert (lane is None) == (not self._running)
        if lane is None:
            return
        self.num_switches += lane.key != self._in_memory
        self._in_memory = lane.key
        self._queue.took(lane, 1.0)
        self.had_s[lane.priority] += 1
        members = [item for item in self._running.values() if lane_of(item) == lane]
        assert members, "a lane without requests had a turn"
        for item in members:
            self._left[item.request_id] -= 1
            if self._left[item.request_id] == 0:
                del self._running[item.request_id]
                self._queue.remove(item.request_id)
                assert item.request_id not in self.ended_s
                self.ended_s[item.request_id] = self.now_s + 1


_ITEMS: st.SearchStrategy[list[dict[str, object]]] = st.lists(
    st.builds(
        dict,
        submitted_s=st.integers(0, 60),
        num_steps=st.integers(1, 20),
        cost=st.integers(1, 10),
        priority=st.sampled_from(list(PRIORITIES)),
        key=st.sampled_from("abc"),
    ),
    max_size=40,
)


def _items(fields: Sequence[dict[str, object]]) -> list[_Item]:
    return [_Item(RequestId(f"req_{index}"), **of_item) for index, of_item in enumerate(fields)]  # type: ignore[arg-type]


@given(_ITEMS, st.integers(1, 3), st.sampled_from([0.0, 0.5]))
def test_every_request_takes_all_of_its_steps_and_ends_once(
    fields: list[dict[str, object]], num_models: int, bring_s: float
) -> None:
    items = _items(fields)
    machine = _Machine(items, num_models=num_models, bring_s=bring_s)
    assert set(machine.run()) == {item.request_id for item in items}
    assert set(machine._left.values()) <= {0}


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["standard", "batch"]),
    st.integers(1, _MAX_COST),
    st.integers(20, 40),
    st.sampled_from(["interactive", "standard"]),
)
def test_nobody_starves_beside_more_requests_than_the_machine_can_do(
    priority: Priority, cost: int, period_s: int, of_others: Priority
) -> None:
    """Work of twice the machine's capacity comes without end; those that came in time go first, nobody else."""
    patience_s = PRIORITIES[priority].patience_s
    one = _Item(RequestId("one"), 0, 5, cost=cost, priority=priority, key="one")
    num_others = int(3 * patience_s / period_s) + 200
    others = [
        _Item(RequestId(f"req_{index}"), index * period_s, 2 * period_s, cost=_MAX_COST, priority=of_others)
        for index in range(num_others)
    ]
    machine = _Machine([one, *others])
    machine.run(until=one.request_id)
    ahead_s = sum(other.num_steps for other in others if other.due_s <= one.due_s)
    share = 1 + PRIORITIES[of_others].weight / PRIORITIES[priority].weight
    assert machine.ended_s[one.request_id] <= ahead_s + 2 * others[0].num_steps + one.num_steps * share + 2


@given(st.sampled_from(list(PRIORITIES)), st.integers(1, 30), st.integers(1, 10))
def test_nobody_starves_beside_a_model_that_is_always_used(priority: Priority, num_steps: int, period_s: int) -> None:
    """Memory has room for one model, and requests of another come without end. They go first for a tenth at most."""
    overtaken_s = PRIORITIES[priority].patience_s / 10
    one = _Item(RequestId("one"), 1, 5, priority=priority, key="one")
    num_others = int((overtaken_s + 2 * num_steps) / period_s) + 100
    others = [
        _Item(RequestId(f"req_{index}"), index * period_s, num_steps, cost=0.01, priority=priority)
        for index in range(num_others)
    ]
    machine = _Machine([one, *others], num_models=1)
    machine.run(until=one.request_id)
    assert machine.ended_s[one.request_id] <= 1 + overtaken_s + num_steps + one.num_steps + 2


@given(st.lists(st.sampled_from(list(PRIORITIES)), min_size=1, unique=True))
def test_classes_share_the_time_by_weight(priorities: list[Priority]) -> None:
    items = [_Item(RequestId(name), 0, 2000, priority=name) for name in priorities]
    machine = _Machine(items)
    machine.run(until=max(items, key=lambda item: PRIORITIES[item.priority].weight).request_id)
    by_weight = [machine.had_s[name] / PRIORITIES[name].weight for name in priorities]
    assert max(by_weight) - min(by_weight) <= 1


def _earliest_deadline_first(items: Sequence[_Item]) -> dict[RequestId, int]:
    """When each request ends if free places in the batch always go to the earliest deadlines."""
    left, now_s, batch, ended_s = {item: item.num_steps for item in items}, 0, list[_Item](), dict[RequestId, int]()
    while left:
        waiting = sorted(
            (item for item in left if item.submitted_s <= now_s and item not in batch),
            key=lambda item: item.deadline_s,
        )
        batch += waiting[: _MAX_COST - len(batch)]
        now_s += 1
        for item in list(batch):
            left[item] -= 1
            if left[item] == 0:
                batch.remove(item)
                del left[item]
                ended_s[item.request_id] = now_s
    return ended_s


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10), st.floats(1, 55)), min_size=1, max_size=40),
)
def test_requests_of_one_key_and_cost_meet_their_deadlines_if_the_earliest_first_does(
    drawn: list[tuple[int, int, float]],
) -> None:
    items = [
        _Item(RequestId(f"req_{index}"), submitted_s, num_steps, deadline_s=submitted_s + within_s)
        for index, (submitted_s, num_steps, within_s) in enumerate(drawn)
    ]
    expected = _earliest_deadline_first(items)
    if all(expected[item.request_id] <= item.deadline_s for item in items):
        ours = _Machine(items).run()
        assert all(ours[item.request_id] <= item.deadline_s for item in items)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=_MAX_COST), st.floats(0.01, 2))
def test_switching_models_takes_a_small_share_of_the_time_and_nobody_starves(keys: list[str], bring_s: float) -> None:
    """All run at once and none leaves before the end. A standard request has a weight of four."""
    items = [_Item(RequestId(f"req_{index}"), 0, 400, key=key) for index, key in enumerate(keys)]
    machine = _Machine(items, bring_s=bring_s)
    assert set(machine.run()) == {item.request_id for item in items}
    lane_s = 400
    of_a_turn = 10 * bring_s
    assert machine.num_switches <= len(set(keys)) * (1 + lane_s / of_a_turn)
