"""Who must leave a device for whom."""

from __future__ import annotations

import math

import pytest

from atelier.models.ledger import Ledger


@pytest.fixture
def ledger() -> Ledger:
    """Ten bytes, of which `a`, `b` and `c` hold three each, in this order."""
    ledger = Ledger(10)
    for name in "abc":
        ledger.hold(name, 3)
        ledger.use(name)
        ledger.end_use(name)
    return ledger


def test_nobody_leaves_where_there_is_room(ledger: Ledger) -> None:
    assert ledger.leavers(1) == []


def test_those_used_longest_ago_leave_first_and_no_more_than_must(ledger: Ledger) -> None:
    assert ledger.leavers(2) == ["a"]
    assert ledger.leavers(4) == ["a"]
    assert ledger.leavers(5) == ["a", "b"]


def test_a_use_makes_a_holder_the_last_to_leave(ledger: Ledger) -> None:
    ledger.use("a")
    ledger.end_use("a")
    assert ledger.leavers(5) == ["b", "c"]


def test_who_is_in_use_stays_until_every_use_is_over(ledger: Ledger) -> None:
    ledger.use("a")
    ledger.use("a")
    ledger.end_use("a")
    assert ledger.leavers(7) == ["b", "c"]
    assert ledger.leavers(8) is None
    ledger.end_use("a")
    assert ledger.leavers(8) == ["b", "c", "a"]


def test_who_is_kept_never_leaves() -> None:
    ledger = Ledger(10)
    ledger.hold("kept", 3, can_leave=False)
    ledger.hold("a", 3)
    assert ledger.leavers(7) == ["a"]
    assert ledger.leavers(8) is None


def test_an_exclusive_model_leaves_for_other_models_and_they_leave_for_it() -> None:
    ledger = Ledger(math.inf)
    ledger.hold("alone", 3, is_model=True, is_exclusive=True)
    assert ledger.leavers(1, is_model=True) == ["alone"]
    ledger.drop("alone")
    ledger.hold("a", 1, is_model=True)
    ledger.hold("b", 1, is_model=True)
    assert ledger.leavers(1, is_model=True, is_exclusive=True) == ["a", "b"]
    ledger.use("a")
    assert ledger.leavers(1, is_model=True, is_exclusive=True) is None


def test_controlnets_and_activations_stay_beside_an_exclusive_model_in_use() -> None:
    ledger = Ledger(10)
    ledger.hold("controlnet", 3)
    assert ledger.leavers(3, is_model=True, is_exclusive=True) == []
    ledger.hold("alone", 3, is_model=True, is_exclusive=True)
    ledger.use("alone")
    assert ledger.leavers(4) == []


def test_the_peak_is_the_most_that_was_held_at_once(ledger: Ledger) -> None:
    ledger.drop("a")
    ledger.hold("d", 2)
    assert (ledger.num_bytes, ledger.peak_bytes) == (8, 9)
