"""Turns on plain values: times are what the test says they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.engine.turns import Turns

_KEYS = "abcd"


def _take(turns: Turns[str], step_s: Mapping[str, float], total_s: float) -> dict[str, float]:
    """Take turns until so much time has passed; return what each key had of it."""
    had_s: dict[str, float] = defaultdict(float)
    while sum(had_s.values()) < total_s:
        key = turns.next()
        assert key is not None
        turns.took(key, step_s[key])
        had_s[key] += step_s[key]
    return had_s


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), st.tuples(st.floats(0.01, 1), st.integers(1, 16)), min_size=1))
def test_keys_share_the_time_by_weight_but_for_one_step(steps: dict[str, tuple[float, int]]) -> None:
    turns = Turns[str]()
    for key, (_, weight) in steps.items():
        turns.join(key, weight)
    step_s = {key: one_s for key, (one_s, _) in steps.items()}
    had_s = _take(turns, step_s, total_s=20 * 16 * max(step_s.values()))
    assert set(had_s) == set(step_s), "one was never next"
    by_weight = [had_s[key] / weight for key, (_, weight) in steps.items()]
    assert max(by_weight) - min(by_weight) <= max(step_s.values()) + 1e-9


def test_short_steps_do_not_wait_for_a_long_one_each_time() -> None:
    turns = Turns[str]()
    turns.join("large")
    turns.join("small")
    assert _take(turns, {"large": 1.0, "small": 0.125}, total_s=4) == {"large": 2.0, "small": 2.0}


@pytest.mark.parametrize("step_s", [0.1, 0.0])
def test_keys_of_equal_cost_alternate(step_s: float) -> None:
    turns = Turns[str]()
    for key in "abc":
        turns.join(key)
    order = []
    for _ in range(6):
        order.append(turns.next())
        turns.took(order[-1] or "", step_s)
    assert order == [*"abcabc"]


@given(st.lists(st.tuples(st.sampled_from(_KEYS), st.booleans(), st.floats(0.01, 1)), max_size=30))
def test_a_key_that_comes_has_neither_credit_nor_debt(past: list[tuple[str, bool, float]]) -> None:
    turns = Turns[str]()
    turns.join("present")
    for key, joins, step_s in past:
        turns.join(key) if joins else turns.leave(key)
        turns.took(turns.next() or "present", step_s)
    turns.leave("a")
    turns.join("a")
    others = [key for key in _KEYS if key != "a"]
    for key in others:
        turns.leave(key)
    had_s = _take(turns, {"a": 0.5, "present": 0.5}, total_s=10)
    assert abs(had_s["a"] - had_s["present"]) <= 1.5


def test_a_key_that_has_left_has_no_turn_and_no_time() -> None:
    turns = Turns[str]()
    turns.join("a")
    turns.leave("a")
    turns.leave("a")
    turns.took("a", 1.0)
    assert turns.next() is None
    turns.join("b")
    turns.join("a")
    assert _take(turns, {"a": 1.0, "b": 1.0}, total_s=2) == {"a": 1.0, "b": 1.0}


def test_joining_again_changes_nothing() -> None:
    turns = Turns[str]()
    turns.join("a")
    turns.join("b")
    turns.took("a", 1.0)
    turns.join("a")
    assert turns.next() == "b"
