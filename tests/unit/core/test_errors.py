from __future__ import annotations

import pickle

import pytest

from atelier.core import errors
from atelier.core.errors import AtelierError, InvalidParameter, QueueFull


def _tree(kind: type[AtelierError]) -> list[type[AtelierError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _tree(child))]


@pytest.mark.parametrize(
    ("name", "parent", "status", "code", "type_", "is_retryable"),
    [
        ("AtelierError", RuntimeError, 500, "internal_error", "server_error", False),
        ("InvalidRequest", errors.AtelierError, 400, "invalid_request", "invalid_request_error", False),
        ("InvalidParameter", errors.InvalidRequest, 400, "invalid_value", "invalid_request_error", False),
        ("UnsupportedValue", errors.InvalidParameter, 400, "unsupported_value", "invalid_request_error", False),
        ("UnknownParameter", errors.InvalidRequest, 400, "unknown_parameter", "invalid_request_error", False),
        ("MalformedBody", errors.InvalidRequest, 400, "invalid_body", "invalid_request_error", False),
        ("TooMuchWork", errors.InvalidRequest, 400, "too_much_work", "invalid_request_error", False),
        ("AdapterInvalid", errors.InvalidRequest, 400, "adapter_invalid", "invalid_request_error", False),
        ("Forbidden", errors.InvalidRequest, 403, "forbidden", "invalid_request_error", False),
        ("NotFound", errors.InvalidRequest, 404, "not_found", "invalid_request_error", False),
        ("ModelNotFound", errors.InvalidRequest, 404, "model_not_found", "invalid_request_error", False),
        ("LoraNotFound", errors.InvalidRequest, 404, "lora_not_found", "invalid_request_error", False),
        ("MethodNotAllowed", errors.InvalidRequest, 405, "method_not_allowed", "invalid_request_error", False),
        ("BodyTooLarge", errors.InvalidRequest, 413, "body_too_large", "invalid_request_error", False),
        ("QueueFull", errors.AtelierError, 429, "queue_full", "rate_limit_error", True),
        ("GenerationFailed", errors.AtelierError, 500, "generation_failed", "server_error", False),
        ("NotSupported", errors.AtelierError, 501, "not_supported", "not_supported_error", False),
        ("ReplicaLost", errors.AtelierError, 503, "replica_lost", "server_error", True),
        ("StoreUnavailable", errors.AtelierError, 503, "store_unavailable", "server_error", True),
        ("JobsUnavailable", errors.AtelierError, 503, "jobs_unavailable", "server_error", True),
        ("IdempotencyConflict", errors.InvalidRequest, 409, "idempotency_conflict", "invalid_request_error", False),
        ("DeadlineExceeded", errors.AtelierError, 504, "deadline_exceeded", "server_error", False),
        ("ModelUnavailable", errors.AtelierError, 503, "model_unavailable", "server_error", False),
    ],
)
def test_each_error_has_its_place_and_answer(
    name: str, parent: type[Exception], status: int, code: str, type_: str, is_retryable: bool
) -> None:
    kind = getattr(errors, name)
    assert kind.__bases__ == (parent,)
    assert (kind.status, kind.code, kind.type, kind.is_retryable) == (status, code, type_, is_retryable)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    assert all(f" {kind.__name__} " in errors.__doc__ for kind in _tree(AtelierError))


def test_a_full_queue_is_tried_again_after_a_second() -> None:
    assert QueueFull().retry_after_s == 1
    longer = pickle.loads(pickle.dumps(QueueFull("busy", retry_after_s=7)))
    assert (str(longer), longer.retry_after_s) == ("busy", 7)


def test_errors_survive_pickling() -> None:
    error = InvalidParameter("n: too many", param="n")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.param, copy.status) == ("n: too many", "n", 400)


def test_an_error_without_a_message_explains_itself_by_its_docstring() -> None:
    for kind in _tree(AtelierError):
        assert str(kind()) == kind.__doc__
        assert kind().param is None
    assert str(QueueFull("busy")) == "busy"
