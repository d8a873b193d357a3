"""Time limits of requests, and limits of the engine that change while it works."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import replace

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import DeadlineExceeded, QueueFull
from atelier.engine.engine import Engine, StepReport
from atelier.engine.request import Event
from tests.engines import WAIT_S, Clock, held_at_first_step, new_engine


@pytest.fixture(scope="module")
def catalogue(small_catalogue: Catalogue) -> Catalogue:
    return small_catalogue.only(["small-sdxl"])


@pytest.fixture
def engine(catalogue: Catalogue, reports: list[StepReport], clock: Clock) -> Iterator[Engine]:
    engine = new_engine(catalogue, max_waiting=1, observe=reports.append, now_s=clock)
    yield engine
    engine.close()


def _submit(engine: Engine, request: DenoiseRequest, name: str) -> queue.Queue[Event]:
    events: queue.Queue[Event] = queue.Queue()
    engine.submit(replace(request, request_id=RequestId(name)), events.put)
    return events


def test_a_running_and_a_waiting_request_end_at_their_time_limits(
    engine: Engine, request_: DenoiseRequest, clock: Clock, reports: list[StepReport]
) -> None:
    clock.now_s = 100.0
    limited = replace(request_, time_limit_s=10.0)
    with held_at_first_step(engine, replace(request_, time_limit_s=11.0)):
        waiting = _submit(engine, limited, "req_waiting")
        clock.now_s = 110.0
    error = waiting.get(timeout=WAIT_S)
    assert isinstance(error, DeadlineExceeded)
    assert "10.0 s" in str(error)
    assert engine.status().num_waiting == 0
    with held_at_first_step(engine, limited):
        clock.now_s = 120.0
    assert isinstance(_submit(engine, request_, "req_next").get(timeout=WAIT_S), Denoised)
    assert {report.num_requests for report in reports} == {1}
    assert len(reports) == 4 + 1 + 4


def test_a_request_within_its_time_limit_reports_how_long_it_waited(
    engine: Engine, request_: DenoiseRequest, clock: Clock
) -> None:
    with held_at_first_step(engine, request_):
        waiting = _submit(engine, replace(request_, time_limit_s=10.0), "req_waiting")
        clock.now_s = 4.0
    event = waiting.get(timeout=WAIT_S)
    assert isinstance(event, Denoised)
    assert event.queue_s == 4.0


def test_limits_change_while_requests_wait(
    engine: Engine, request_: DenoiseRequest, reports: list[StepReport]
) -> None:
    with held_at_first_step(engine, request_):
        ends = [_submit(engine, request_, "req_0")]
        with pytest.raises(QueueFull):
            _submit(engine, request_, "req_1")
        engine.set_limits(max_waiting=3, max_rows=2)
        ends += [_submit(engine, request_, f"req_{index}") for index in (1, 2)]
        with pytest.raises(QueueFull):
            _submit(engine, request_, "req_3")
    assert all(isinstance(events.get(timeout=WAIT_S), Denoised) for events in ends)
    assert {report.num_rows for report in reports} == {2}
