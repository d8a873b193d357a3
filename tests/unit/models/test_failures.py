"""Counting a model's failures: which error a client gets, and when the health check fails."""

from __future__ import annotations

import pytest

from atelier.core.errors import GenerationFailed, InvalidParameter, ReplicaLost
from atelier.models.failures import Failures


def _kinds(failures: Failures, errors: list[Exception]) -> list[type[Exception]]:
    return [type(failures.failed(error, what="A call")) for error in errors]


def test_the_third_failure_in_a_row_is_a_loss_that_can_be_retried() -> None:
    failures, broken = Failures(), RuntimeError("no GPU")
    assert _kinds(failures, [broken] * 2) == [GenerationFailed] * 2
    failures.check()
    lost = failures.failed(broken, what="A call")
    assert (type(lost), lost.is_retryable) == (ReplicaLost, True)
    assert "no GPU" in str(lost)
    with pytest.raises(RuntimeError, match="last 3 model calls"):
        failures.check()


def test_a_success_ends_the_row() -> None:
    failures, broken = Failures(), MemoryError()
    for _ in range(4):
        assert _kinds(failures, [broken] * 2) == [GenerationFailed] * 2
        failures.succeeded()
    failures.check()


@pytest.mark.parametrize("kind", [InvalidParameter, ArithmeticError, KeyError, TypeError, ValueError])
def test_errors_that_a_request_causes_do_not_count(kind: type[Exception]) -> None:
    failures = Failures()
    expected = kind if kind is InvalidParameter else GenerationFailed
    assert _kinds(failures, [kind("bad")] * 9) == [expected] * 9
    failures.check()
