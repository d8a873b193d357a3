"""Admission by predicted wait, with a clock that moves only when a test sets it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from atelier.core.errors import QueueFull
from atelier.core.priority import PRIORITIES, Priority
from atelier.pipeline.admission import Admission


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def admission(clock: _Clock) -> Admission:
    """At most ten seconds of waiting, after five seconds that finished 50 units of work: ten a second."""
    admission = Admission(max_wait_s=10, max_unmeasured=64, now_s=clock)
    _work(admission, clock, 50, seconds=5)
    return admission


def _work(admission: Admission, clock: _Clock, work: int, *, seconds: float, is_finished: bool = True) -> None:
    with admission.admitted(work) as finish:
        clock.now_s += seconds
        if is_finished:
            finish()


def _is_admitted(admission: Admission, work: int = 1) -> bool:
    try:
        with admission.admitted(work):
            return True
    except QueueFull:
        return False


def test_work_is_admitted_until_the_wait_is_too_long(admission: Admission) -> None:
    with admission.admitted(100):
        assert _is_admitted(admission)
        with admission.admitted(1), pytest.raises(QueueFull) as caught, admission.admitted(1):
            pass
        assert caught.value.retry_after_s == 1
        with admission.admitted(45), pytest.raises(QueueFull) as caught, admission.admitted(1):
            pass
        assert caught.value.retry_after_s == 5
    assert _is_admitted(admission)


@pytest.mark.parametrize(
    ("priority", "admitted"),
    [("batch", ["interactive", "standard"]), ("standard", ["interactive"]), ("interactive", [])],
)
def test_work_waits_for_its_own_priority_and_higher_ones_only(
    admission: Admission, priority: Priority, admitted: list[Priority]
) -> None:
    with admission.admitted(150, priority):
        for name in PRIORITIES:
            if name in admitted:
                with admission.admitted(1, name):
                    pass
            else:
                with pytest.raises(QueueFull), admission.admitted(1, name):
                    pass


def test_the_size_of_the_work_itself_does_not_count(admission: Admission) -> None:
    assert _is_admitted(admission, work=1_000_000)


def test_idle_time_does_not_slow_the_rate(admission: Admission, clock: _Clock) -> None:
    clock.now_s += 10_000
    with admission.admitted(100):
        assert _is_admitted(admission)


def test_the_rate_follows_what_is_finished_lately(admission: Admission, clock: _Clock) -> None:
    for _ in range(20):
        _work(admission, clock, 10, seconds=10)
    with admission.admitted(20):
        assert not _is_admitted(admission)


def test_slow_work_of_long_ago_is_forgotten(admission: Admission, clock: _Clock) -> None:
    for work in (10, 100):
        for _ in range(20):
            _work(admission, clock, work, seconds=10)
    with admission.admitted(90):
        assert _is_admitted(admission)


def test_cancelled_work_does_not_slow_the_rate(admission: Admission, clock: _Clock) -> None:
    for _ in range(10):
        _work(admission, clock, 1000, seconds=10, is_finished=False)
    with admission.admitted(100):
        assert _is_admitted(admission)
        with admission.admitted(1):
            assert not _is_admitted(admission)


def test_long_work_in_progress_does_not_slow_the_rate(admission: Admission, clock: _Clock) -> None:
    with admission.admitted(99):
        clock.now_s += 1000
        assert _is_admitted(admission)


def test_work_side_by_side_shares_the_time(clock: _Clock) -> None:
    """Twice 50 units in 10 seconds are 10 a second, however they overlap."""
    admission = Admission(max_wait_s=10, max_unmeasured=64, now_s=clock)
    with admission.admitted(50) as finish_first, admission.admitted(50) as finish_second:
        clock.now_s += 10
        finish_first()
        finish_second()
    with admission.admitted(100):
        assert _is_admitted(admission)
        with admission.admitted(1):
            assert not _is_admitted(admission)


def test_a_fixed_number_is_admitted_before_the_rate_is_known() -> None:
    admission = Admission(max_wait_s=10, max_unmeasured=5, now_s=lambda: 0.0)
    with ExitStack() as running:
        for _ in range(5):
            running.enter_context(admission.admitted(10**9))
        with pytest.raises(QueueFull) as caught, admission.admitted(1):
            pass
        assert caught.value.retry_after_s == 1


def test_requests_that_arrive_count_as_the_average(admission: Admission, clock: _Clock) -> None:
    """With 20 of 100 units in progress, two arriving requests of 40 on average fill the rest, and three exceed it."""
    _work(admission, clock, 30, seconds=3)
    with admission.admitted(20), admission.arriving(), admission.arriving():
        with admission.arriving(), pytest.raises(QueueFull) as caught, admission.arriving():
            pass
        assert caught.value.retry_after_s == 4
        with admission.arriving():
            pass


def test_the_average_does_not_sink_with_time(admission: Admission, clock: _Clock) -> None:
    """At one unit a second, one arriving request of ten units fills the ten seconds, and two exceed them."""
    for _ in range(40):
        _work(admission, clock, 10, seconds=10)
    with admission.arriving(), admission.arriving(), pytest.raises(QueueFull), admission.arriving():
        pass


def test_requests_whose_work_is_known_do_not_wait_for_those_that_arrive(admission: Admission) -> None:
    with admission.arriving(), admission.arriving(), admission.arriving():
        assert _is_admitted(admission)
        with pytest.raises(QueueFull), admission.arriving():
            pass


def test_a_request_that_arrives_slowly_holds_up_nobody(admission: Admission, clock: _Clock) -> None:
    with admission.arriving(), admission.arriving(), admission.arriving():
        clock.now_s += 1
        with admission.arriving():
            pass


def test_a_fixed_number_arrives_before_the_rate_is_known() -> None:
    admission = Admission(max_wait_s=10, max_unmeasured=2, now_s=lambda: 0.0)
    with admission.admitted(1), admission.arriving(), pytest.raises(QueueFull), admission.arriving():
        pass
