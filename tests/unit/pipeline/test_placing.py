"""The choice of a Denoiser, on plain values. A step takes 1 s, and 0.5 s for each pixel row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.core.priority import Priority
from atelier.core.work import Load, StepTime, Work, loads_of, waiting_s
from atelier.pipeline.placing import Placing, Report

_STEP_TIME = StepTime(1.0, 0.5)


def _work(key: str = "small", rows: float = 2, loras: str = "", priority: Priority = "standard") -> Work:
    return Work(key=key, priority=priority, pixel_rows=rows, num_steps=10, loras=frozenset(loras))


def _placing(*names: str, step_time: StepTime = _STEP_TIME) -> Placing[str]:
    placing = Placing[str]()
    for name in names:
        placing.report(name, Report(step_time=step_time))
    return placing


def test_an_idle_replica_is_chosen_and_among_equals_the_first() -> None:
    placing = _placing("a", "b", "c")
    assert placing.ranked(["b", "a", "c"], _work()) == ["b", "a", "c"]
    placing.place("req_1", "b", _work())
    placing.place("req_2", "c", _work(rows=4))
    assert placing.ranked(["b", "a", "c"], _work()) == ["a", "b", "c"]


def test_equal_sizes_meet() -> None:
    placing = _placing("a", "b")
    for index in range(3):
        placing.place(f"a{index}", "a", _work("small"))
        placing.place(f"b{index}", "b", _work("large"))
    placing.place("b3", "b", _work("large"))
    assert placing.ranked(["a", "b"], _work("large")) == ["b", "a"]
    assert placing.ranked(["a", "b"], _work("small")) == ["a", "b"]


def test_a_replica_with_too_much_of_a_size_shares_it_with_another() -> None:
    placing = _placing("a", "b")
    placing.place("b", "b", _work("large"))
    chosen = []
    for index in range(12):
        [best, _] = placing.ranked(["a", "b"], _work("small"))
        placing.place(f"req_{index}", best, _work("small"))
        chosen.append(best)
    assert chosen[:3] == ["a"] * 3
    assert "b" in chosen


def test_work_that_has_ended_or_moved_counts_no_longer() -> None:
    placing = _placing("a", "b")
    placing.place("req", "a", _work())
    assert placing.ranked(["a", "b"], _work()) == ["b", "a"]
    placing.place("req", "b", _work())
    assert placing.ranked(["b", "a"], _work()) == ["a", "b"]
    assert placing.is_placed("req")
    placing.finish("req")
    placing.finish("req")
    assert not placing.is_placed("req")
    assert placing.ranked(["b", "a"], _work()) == ["b", "a"]


def test_reported_work_of_other_routers_counts_and_own_work_only_once() -> None:
    placing = _placing("a", "b")
    placing.place("req", "b", _work())
    placing.report("b", Report(loads={("standard", "small"): Load(1, 2, 10)}, step_time=_STEP_TIME))
    placing.place("one", "a", _work())
    assert placing.ranked(["b", "a"], _work()) == ["b", "a"]
    placing.report("b", Report(loads={("standard", "small"): Load(2, 4, 20)}, step_time=_STEP_TIME))
    assert placing.ranked(["b", "a"], _work()) == ["a", "b"]
    placing.finish("req")
    placing.report("b", Report(step_time=_STEP_TIME))
    assert placing.ranked(["a", "b"], _work()) == ["b", "a"]


def test_a_report_that_comes_again_does_not_count_work_that_has_ended_since() -> None:
    placing = _placing("a", "b")
    placing.place("req", "b", _work())
    report = Report(loads={("standard", "small"): Load(1, 2, 10)}, step_time=_STEP_TIME)
    placing.report("b", report)
    placing.finish("req")
    placing.report("b", report)
    assert placing.ranked(["b", "a"], _work()) == ["b", "a"]


def test_a_faster_replica_gets_more() -> None:
    placing = _placing("slow")
    placing.report("fast", Report(step_time=StepTime(0.1, 0.05)))
    placing.place("req", "fast", _work())
    assert placing.ranked(["slow", "fast"], _work()) == ["fast", "slow"]


def test_replicas_that_have_the_loras_are_preferred_until_they_are_busier() -> None:
    step_time = StepTime(0.005, 0.0025)
    placing = _placing("a", "b", step_time=step_time)
    placing.report("c", Report(loras=["x"], step_time=step_time))
    placing.report("d", Report(loras=["x", "y"], step_time=step_time))
    assert placing.ranked(["a", "b", "c", "d"], _work(loras="xy")) == ["d", "c", "a", "b"]
    for index in range(8):
        placing.place(f"req_{index}", "d", _work())
    assert placing.ranked(["a", "b", "c", "d"], _work(loras="xy"))[0] == "c"


def test_a_replica_that_is_gone_is_forgotten_with_its_requests() -> None:
    placing = _placing("a", "b")
    placing.place("req", "a", _work())
    assert placing.requests_at("a") == ["req"]
    assert placing.names == {"a", "b"}
    placing.remove("a")
    placing.remove("a")
    assert placing.names == {"b"}
    assert placing.requests_at("a") == []
    placing.finish("req")
    placing.report("a", Report(step_time=_STEP_TIME))
    assert placing.ranked(["a", "b"], _work()) == ["a", "b"]


@given(
    st.lists(
        st.builds(
            _work,
            key=st.sampled_from(["small", "large"]),
            rows=st.integers(1, 8),
            priority=st.sampled_from(["standard", "batch"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_what_a_work_adds_is_the_difference_of_all_waiting(works: list[Work], data: st.DataObject) -> None:
    placing, (last, *others) = _placing("a"), works
    for index, work in enumerate(others):
        placing.place(f"req_{index}", "a", work)
    gone = data.draw(st.sets(st.sampled_from(range(len(others))))) if others else set()
    for index in gone:
        placing.finish(f"req_{index}")
    left = [work for index, work in enumerate(others) if index not in gone]
    before_s, after_s = (waiting_s(loads_of(there), _STEP_TIME) for there in (left, [*left, last]))
    assert placing.added_s("a", last) == pytest.approx(after_s - before_s)
