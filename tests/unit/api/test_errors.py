from __future__ import annotations

import json

import pytest

from atelier.api.errors import error_response
from atelier.core.errors import AtelierError, DeadlineExceeded, InvalidParameter, QueueFull, ReplicaLost


@pytest.mark.parametrize("error", [QueueFull(), ReplicaLost()])
def test_clients_may_retry_what_may_succeed_later(error: AtelierError) -> None:
    assert "x-should-retry" not in error_response(error).headers


@pytest.mark.parametrize("error", [InvalidParameter("n: no", param="n"), DeadlineExceeded()])
def test_clients_are_told_not_to_retry_what_fails_again(error: AtelierError) -> None:
    assert error_response(error).headers["x-should-retry"] == "false"


def test_a_full_queue_says_when_to_come_back() -> None:
    response = error_response(QueueFull())
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_the_body_is_openais() -> None:
    body = json.loads(bytes(error_response(InvalidParameter("n: no", param="n")).body))
    assert body == {
        "error": {"message": "n: no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"}
    }
