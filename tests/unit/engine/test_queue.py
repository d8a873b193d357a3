"""The queue on plain values, without threads and with times that the test sets."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from atelier.core.denoising import RequestId
from atelier.core.errors import QueueFull
from atelier.core.priority import Priority
from atelier.engine.queue import Changes, Lane, Queue


@dataclass(eq=False)
class _Item:
    name: str
    cost: float = 1.0
    due_s: float = 0.0
    priority: Priority = "standard"
    key: str = "key"
    is_ready: bool = True

    @property
    def request_id(self) -> RequestId:
        return RequestId(self.name)


def _queue(*items: _Item, max_waiting: int = 100, max_cost: float = 8) -> Queue[_Item]:
    queue: Queue[_Item] = Queue(max_waiting=max_waiting, max_cost=max_cost)
    for item in items:
        queue.submit(item)
    return queue


def _names(changes: Changes[_Item]) -> tuple[str, str]:
    """The names of the admitted requests, and of those that are parked."""
    return "".join(item.name for item in changes.admitted), "".join(item.name for item in changes.parked)


def test_requests_are_admitted_in_the_order_in_which_they_are_due_until_the_batch_is_full() -> None:
    queue = _queue(_Item("a", 4, due_s=3), _Item("b", 4, due_s=1), _Item("c", 4, due_s=2))
    assert _names(queue.admit()) == ("bc", "")
    assert (queue.num_waiting, queue.num_running) == (1, 2)
    assert _names(queue.admit()) == ("", "")
    queue.remove(RequestId("b"))
    assert _names(queue.admit()) == ("a", "")


def test_requests_that_are_due_at_once_are_admitted_as_they_came() -> None:
    assert _names(_queue(*map(_Item, "cabd")).admit()) == ("cabd", "")


def test_a_request_that_is_not_ready_holds_up_nobody() -> None:
    loading = _Item("a", 8, is_ready=False)
    queue = _queue(loading)
    assert not queue.has_work
    queue.submit(_Item("b"))
    assert queue.has_work
    assert _names(queue.admit()) == ("b", "")
    queue.remove(RequestId("b"))
    loading.is_ready = True
    assert _names(queue.admit()) == ("a", "")


def test_a_request_that_costs_more_than_a_batch_runs_alone() -> None:
    queue = _queue(_Item("a"))
    queue.admit()
    queue.submit(_Item("b", 20))
    assert _names(queue.admit()) == ("", "")
    queue.remove(RequestId("a"))
    assert _names(queue.admit()) == ("b", "")
    queue.submit(_Item("c"))
    assert _names(queue.admit()) == ("", "")
    queue.submit(_Item("I", 20, priority="interactive", due_s=-1))
    assert _names(queue.admit()) == ("I", "b")


def test_a_request_that_does_not_fit_is_overtaken_by_a_batchs_worth_at_most() -> None:
    queue = _queue(_Item("a", 4), _Item("b", 2))
    queue.admit()
    queue.submit(_Item("L", 8, due_s=1))
    for number in range(8):
        queue.submit(_Item(str(number), 2, due_s=2))
    overtaking = ""
    for _ in range(8):
        names, _ = _names(queue.admit())
        overtaking += names
        for name in names:
            queue.remove(RequestId(name))
    assert overtaking == "0123"
    queue.remove(RequestId("a"))
    queue.remove(RequestId("b"))
    assert _names(queue.admit()) == ("L", "")


def test_requests_of_lower_classes_step_aside_those_first_that_are_due_last() -> None:
    running = [_Item(name, 2, due, "batch") for name, due in (("a", 60), ("b", 90), ("c", 80))]
    queue = _queue(*running, _Item("d", 2, 99))
    queue.admit()
    queue.submit(_Item("I", 3, due_s=5, priority="interactive"))
    assert _names(queue.admit()) == ("I", "db")
    assert (queue.num_running, queue.num_waiting) == (3, 2)
    assert queue.has_begun(RequestId("b"))
    queue.remove(RequestId("I"))
    assert _names(queue.admit()) == ("bd", "")


def test_nobody_steps_aside_for_a_request_that_would_not_fit_then() -> None:
    queue = _queue(_Item("a", 2, 60, "batch"), _Item("b", 6, 60, "interactive"))
    queue.admit()
    queue.submit(_Item("I", 4, due_s=5, priority="interactive"))
    assert _names(queue.admit()) == ("", "")


def test_a_request_steps_aside_neither_for_its_own_class_nor_when_it_is_due_first() -> None:
    queue = _queue(_Item("a", 4, due_s=20, priority="batch"), _Item("b", 4, due_s=60))
    queue.admit()
    queue.submit(_Item("c", 4, due_s=30))
    assert _names(queue.admit()) == ("", "")
    queue.submit(_Item("d", 4, due_s=10))
    assert _names(queue.admit()) == ("d", "a")


def test_a_parked_request_that_is_removed_does_not_come_back() -> None:
    queue = _queue(_Item("a", 8, 60, "batch"))
    queue.admit()
    queue.submit(_Item("b", 8, 10))
    assert _names(queue.admit()) == ("b", "a")
    queue.remove(RequestId("a"))
    queue.remove(RequestId("b"))
    assert not queue.items()
    assert not queue.has_work


def test_requests_share_steps_by_key_and_priority() -> None:
    queue = _queue(_Item("a"), _Item("b"), _Item("c", key="other"), _Item("d", priority="batch"))
    queue.admit()
    lanes = []
    for _ in range(3):
        lane = queue.next_lane()
        assert lane is not None
        lanes.append(lane)
        queue.took(lane, 1.0)
    assert lanes == [Lane("standard", "key"), Lane("standard", "other"), Lane("batch", "key")]
    for name in "acd":
        queue.remove(RequestId(name))
    assert queue.next_lane() == Lane("standard", "key")
    queue.remove(RequestId("b"))
    assert queue.next_lane() is None


@pytest.mark.parametrize("priority", ["interactive", "standard", "batch"])
def test_a_class_has_a_bound_of_its_own(priority: Priority) -> None:
    others = [_Item(f"{name}{index}", priority=name) for name in ("interactive", "standard") for index in range(2)]
    queue = _queue(*others, max_waiting=2)
    queue.submit(_Item("batch0", priority="batch"))
    queue.submit(_Item("batch1", priority="batch"))
    with pytest.raises(QueueFull):
        queue.submit(_Item("one more", priority=priority))
    queue.admit()
    queue.submit(_Item("one more", priority=priority))


def _switching(
    *items: _Item, bring_s: dict[str, float] | None = None, max_cost: float = 8, num_in_memory: int = 100
) -> Queue[_Item]:
    """A queue whose keys begin with their model; `bring_s` are the times of the models that are not in memory."""
    times_s = {} if bring_s is None else bring_s
    queue: Queue[_Item] = Queue(
        max_waiting=100,
        max_cost=max_cost,
        model_of=lambda key: str(key)[0],
        bring_s=lambda model: times_s.get(str(model), 0.0),
        fits=lambda models: len(models) <= num_in_memory,
    )
    for item in items:
        queue.submit(item)
    return queue


def test_requests_of_models_in_memory_are_admitted_first() -> None:
    queue = _switching(_Item("a", key="x"), _Item("b", key="y"), bring_s={"x": 0.1}, max_cost=1)
    assert _names(queue.admit()) == ("b", "")


def test_a_model_is_brought_when_its_request_is_due_ten_times_the_switch_before_the_others() -> None:
    def admitted(due_s: float) -> str:
        queue = _switching(_Item("a", key="x"), _Item("b", due_s=due_s, key="y"), bring_s={"x": 0.1}, max_cost=1)
        return _names(queue.admit())[0]

    assert admitted(0.9) == "b"
    assert admitted(1.1) == "a"


def test_requests_of_a_model_that_is_to_be_brought_come_together() -> None:
    items = [_Item("a", key="x1"), _Item("b", due_s=0.5, key="y"), _Item("c", due_s=0.7, key="x2")]
    queue = _switching(*items, bring_s={"x": 0.1, "y": 0.1}, max_cost=2)
    assert _names(queue.admit()) == ("ac", "")


def test_a_lane_whose_model_is_not_in_memory_waits_for_ten_times_the_switch() -> None:
    bring_s = {"x": 0.11}
    queue = _switching(_Item("a", key="x"), _Item("b", key="y"), bring_s=bring_s)
    queue.admit()
    taken = []
    for _ in range(8):
        lane = queue.next_lane()
        assert lane is not None
        taken.append(lane.key)
        queue.took(lane, 1.0)
        bring_s.clear()
        bring_s["x" if lane.key == "y" else "y"] = 0.11
    # Each lane catches up with the other, then gets ahead of it by 1.1 seconds.
    assert "".join(map(str, taken)) == "yyxxxxyy"


def test_a_request_waits_until_the_models_of_running_ones_leave_room_for_its_own() -> None:
    items = [_Item("a", key="x1"), _Item("b", key="y"), _Item("c", key="z"), _Item("d", key="x2")]
    queue = _switching(*items, num_in_memory=2)
    assert _names(queue.admit()) == ("abd", "")
    queue.remove(RequestId("a"))
    assert _names(queue.admit()) == ("", "")
    queue.remove(RequestId("d"))
    assert _names(queue.admit()) == ("c", "")


@pytest.mark.parametrize(("priority", "overtaken_s"), [("interactive", 1), ("standard", 6), ("batch", 360)])
def test_a_request_whose_model_has_no_room_is_overtaken_for_a_tenth_of_its_patience(
    priority: Priority, overtaken_s: float
) -> None:
    def admitted(due_s: float) -> str:
        first = _Item("a", key="x", priority=priority)
        queue = _switching(first, num_in_memory=1)
        queue.admit()
        queue.submit(_Item("b", due_s=1, key="y", priority=priority))
        queue.submit(_Item("c", due_s=1 + due_s, key="x", priority=priority))
        return _names(queue.admit())[0]

    assert admitted(overtaken_s - 0.1) == "c"
    assert admitted(overtaken_s + 0.1) == ""


def test_a_request_whose_model_has_no_room_is_overtaken_by_a_batchs_worth_at_most() -> None:
    queue = _switching(_Item("a", 4, key="x"), num_in_memory=1, max_cost=8)
    queue.admit()
    for item in (_Item("b", 4, key="y"), *(_Item(name, 4, key="x") for name in "cde")):
        queue.submit(item)
    assert _names(queue.admit()) == ("c", "")
    queue.remove(RequestId("a"))
    assert _names(queue.admit()) == ("d", "")
    queue.remove(RequestId("c"))
    assert _names(queue.admit()) == ("", "")
    queue.remove(RequestId("d"))
    assert _names(queue.admit()) == ("b", "")


def test_a_request_that_gives_up_its_place_before_it_began_waits_on_and_is_not_parked() -> None:
    """The second is due later, but its model is there; the first is of a higher class."""
    items = [_Item("a", 8, key="x", priority="interactive"), _Item("b", due_s=0.5, key="y")]
    queue = _switching(*items, bring_s={"x": 0.1})
    assert _names(queue.admit()) == ("a", "")
    assert (queue.num_waiting, queue.num_running) == (1, 1)
    assert not queue.has_begun(RequestId("b"))
    queue.remove(RequestId("a"))
    assert _names(queue.admit()) == ("b", "")


def test_all_requests_of_a_model_step_aside_for_one_of_a_higher_class() -> None:
    running = [
        _Item("a", due_s=100, key="x1", priority="batch"),
        _Item("b", due_s=101, key="x2", priority="batch"),
        _Item("c", due_s=102, key="y", priority="batch"),
        _Item("d", due_s=5, key="y", priority="interactive"),
    ]
    queue = _switching(*running, num_in_memory=2)
    queue.admit()
    queue.submit(_Item("e", due_s=6, key="z", priority="interactive"))
    assert _names(queue.admit()) == ("e", "ab")


def test_nobody_steps_aside_where_each_model_has_a_request_that_stays() -> None:
    running = [
        _Item("a", due_s=100, key="x", priority="batch"),
        _Item("b", due_s=5, key="x", priority="interactive"),
    ]
    queue = _switching(*running, num_in_memory=1)
    queue.admit()
    queue.submit(_Item("c", due_s=6, key="z", priority="interactive"))
    assert _names(queue.admit()) == ("", "")


def test_requests_that_wait_are_admitted_when_the_limits_are_raised() -> None:
    queue = _queue(_Item("a"), _Item("b"), max_cost=1)
    assert _names(queue.admit()) == ("a", "")
    queue.set_limits(max_waiting=100, max_cost=2)
    assert _names(queue.admit()) == ("b", "")
