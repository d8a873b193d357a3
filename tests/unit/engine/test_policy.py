from __future__ import annotations

from atelier.engine.policy import admissible


def _admitted(waiting: list[tuple[str, float]], running_cost: float = 0) -> str:
    """The names of the admitted requests; one whose name is a capital letter is not ready."""
    admitted = admissible(
        waiting,
        running_cost,
        is_ready=lambda request: request[0].islower(),
        cost_of=lambda request: request[1],
        max_cost=8,
    )
    return "".join(name for name, _ in admitted)


def test_requests_are_admitted_until_the_engine_is_full() -> None:
    assert _admitted([("a", 4), ("b", 4), ("c", 1)]) == "ab"
    assert _admitted([("a", 4)], running_cost=6) == ""
    assert _admitted([("a", 1.5)], running_cost=6.5) == "a"


def test_nobody_overtakes_a_request_that_does_not_fit_yet() -> None:
    assert _admitted([("a", 6), ("b", 4), ("c", 1)]) == "a"


def test_requests_that_are_not_ready_hold_up_nobody() -> None:
    assert _admitted([("A", 20), ("b", 4), ("C", 1), ("d", 4)]) == "bd"


def test_a_request_that_never_fits_runs_alone() -> None:
    assert _admitted([("a", 20), ("b", 1)]) == "a"
    assert _admitted([("a", 20)], running_cost=1) == ""
