"""An engine whose model or loop keeps failing: every request ends with an error, and the health check fails."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import GenerationFailed, ReplicaLost
from atelier.engine.engine import Engine, StepReport
from atelier.engine.queue import Queue
from atelier.engine.request import Event
from atelier.engine.runner import Runner
from atelier.engine.turns import Turns
from tests.engines import WAIT_S, new_engine


def _refuse_report(_: StepReport) -> None:
    raise ValueError("no metrics")


@pytest.fixture(scope="module")
def catalogue(small_catalogue: Catalogue) -> Catalogue:
    return small_catalogue.only(["small-sdxl"])


@pytest.fixture
def engine(catalogue: Catalogue) -> Iterator[Engine]:
    engine = new_engine(catalogue, observe=_refuse_report)
    yield engine
    engine.close()


def _submitted(engine: Engine, request: DenoiseRequest, name: str = "req") -> queue.Queue[Event]:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(replace(request, request_id=RequestId(name)), events.put)
    return events


def _result(engine: Engine, request: DenoiseRequest) -> Event:
    return _submitted(engine, request).get(timeout=WAIT_S)


def test_a_failing_observer_does_not_end_the_loop(engine: Engine, request_: DenoiseRequest) -> None:
    assert isinstance(_result(engine, request_), Denoised)
    engine.check(stall_s=WAIT_S)


@pytest.mark.parametrize("method", ["step", "begin", "prompts"])
def test_a_model_that_always_fails_is_lost_until_a_step_succeeds(
    engine: Engine, request_: DenoiseRequest, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no GPU")

    with monkeypatch.context() as broken:
        broken.setattr(Runner, method, fail)
        for kind in (GenerationFailed, GenerationFailed, ReplicaLost, ReplicaLost):
            error = _result(engine, request_)
            assert type(error) is kind
            assert "no GPU" in str(error)
    with pytest.raises(RuntimeError, match="last 4 model calls"):
        engine.check(stall_s=WAIT_S)
    assert isinstance(_result(engine, request_), Denoised)
    engine.check(stall_s=WAIT_S)


@pytest.mark.parametrize(("owner", "name"), [(Queue, "admit"), (Turns, "next")])
def test_a_failing_policy_ends_the_requests_but_not_the_loop(
    engine: Engine, request_: DenoiseRequest, owner: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no policy")

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, fail)
        for _ in range(3):
            assert isinstance(_result(engine, request_), ReplicaLost)
        with pytest.raises(RuntimeError, match="model calls"):
            engine.check(stall_s=WAIT_S)
    assert isinstance(_result(engine, request_), Denoised)


def test_a_request_without_a_key_is_refused_when_it_is_submitted(engine: Engine, request_: DenoiseRequest) -> None:
    with pytest.raises(AttributeError):
        engine.submit(replace(request_, pass_=None), lambda _: None)  # type: ignore[arg-type]
    assert isinstance(_result(engine, request_), Denoised)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_thread_ends_every_request_ends_and_no_other_is_taken(
    engine: Engine, request_: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        running.append(_submitted(engine, request_, "waits"))
        raise SystemExit

    running: list[queue.Queue[Event]] = []
    monkeypatch.setattr(Runner, "step", end)
    running.append(_submitted(engine, request_, "runs"))
    assert isinstance(running[0].get(timeout=WAIT_S), ReplicaLost)
    assert isinstance(running[1].get(timeout=WAIT_S), ReplicaLost)
    with pytest.raises(ReplicaLost):
        _submitted(engine, request_)
