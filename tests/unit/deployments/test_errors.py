"""Errors as Ray sends them, read in this process and in one that cannot import `atelier`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ray.cloudpickle
from ray.util import deregister_serializer

from atelier.core import errors
from atelier.core.errors import AtelierError, QueueFull
from deployments.errors import send_errors_as_fields
from tests.hidden import HIDE_ATELIER

_READ = f"""
{HIDE_ATELIER}
import json, pickle

def kind_and_fields(error):
    return [type(error).__name__, str(error), vars(error)]

print(json.dumps([kind_and_fields(error) for error in pickle.load(sys.stdin.buffer)]))
"""


@pytest.fixture
def kinds() -> Iterator[list[type[AtelierError]]]:
    """The classes of all errors, which Ray sends as fields for the time of the test."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AtelierError)]
    send_errors_as_fields()
    yield kinds
    for kind in kinds:
        deregister_serializer(kind)


def test_an_error_arrives_as_its_class(kinds: list[type[AtelierError]]) -> None:
    for kind in kinds:
        arrived = ray.cloudpickle.loads(ray.cloudpickle.dumps(kind("n: too many", param="n")))
        assert type(arrived) is kind
        assert (str(arrived), arrived.message, arrived.param) == ("n: too many", "n: too many", "n")


@pytest.mark.slow
def test_a_process_without_atelier_reads_the_fields_of_every_error(kinds: list[type[AtelierError]]) -> None:
    sent = ray.cloudpickle.dumps([kind("n: too many", param="n") for kind in kinds])
    read = json.loads(
        subprocess.run([sys.executable, "-c", _READ], input=sent, capture_output=True, check=True).stdout
    )
    for kind, (name, text, fields) in zip(kinds, read, strict=True):
        assert (name, text) == ("RuntimeError", "n: too many")
        assert fields.pop("retry_after_s", None) == (kind.retry_after_s if kind.is_retryable else None)
        assert fields == {
            "message": "n: too many",
            "status": kind.status,
            "type": kind.type,
            "code": kind.code,
            "param": "n",
            "is_retryable": kind.is_retryable,
        }


@pytest.mark.usefixtures("kinds")
def test_a_full_queue_says_when_to_try_again() -> None:
    arrived = ray.cloudpickle.loads(ray.cloudpickle.dumps(QueueFull("busy", retry_after_s=7)))
    assert (str(arrived), arrived.retry_after_s) == ("busy", 7)
