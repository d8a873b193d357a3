"""Engines on this machine's CPU, and requests run in them, for tests of several folders."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from atelier.catalogue.catalogue import Catalogue
from atelier.control.controlnets import load_controlnets
from atelier.control.transports import InProcess
from atelier.core.conditioning import Floats
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.engine.engine import Engine, EngineSettings, StepReport
from atelier.engine.request import Event
from atelier.engine.runners import Runners, load_runners
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from tests.small_models import CPU

WAIT_S = 120
#: Small models gain nothing from a second thread, and threads that wait for each other stall on a busy machine.
SETTINGS = EngineSettings(num_threads=1, max_waiting=64, max_rows=32, exact_width=4)


def new_engine(
    catalogue: Catalogue,
    *,
    max_waiting: int = 64,
    max_rows: int = 32,
    num_threads: int = 1,
    observe: Callable[[StepReport], None] = lambda _: None,
    now_s: Callable[[], float] = time.monotonic,
    find: Callable[[str], Path] = Path,
    placement: Placement = CPU,
) -> Engine:
    """An engine with the catalogue's models, its ControlNets in process, and the LoRAs whose files `find` returns."""
    settings = replace(SETTINGS, max_waiting=max_waiting, max_rows=max_rows, num_threads=num_threads)

    def load() -> Runners:
        host = ModelHost(placement)
        transport = InProcess(load_controlnets(catalogue, placement, host))
        return load_runners(catalogue.models, placement, transport, host=host, find_lora=find)

    return Engine(load, settings, place="here", observe=observe, now_s=now_s)


def run_together(engine: Engine, requests: Sequence[DenoiseRequest]) -> list[Floats]:
    """Final latents of requests that are submitted at once."""
    ends: list[queue.Queue[Event]] = [queue.Queue() for _ in requests]
    for request, events in zip(requests, ends, strict=True):
        engine.submit(request, events.put)
    return [_latents(events) for events in ends]


@contextmanager
def held_at_first_step(engine: Engine, request: DenoiseRequest) -> Iterator[None]:
    """Hold the step loop after the request's first step; requests submitted in the context join together."""
    holding, go_on, ended = (threading.Event() for _ in range(3))

    def hold(event: Event) -> None:
        if not isinstance(event, StepEvent):
            ended.set()
        holding.set()
        go_on.wait(WAIT_S)

    engine.submit(replace(request, report_steps=True), hold)
    assert holding.wait(WAIT_S)
    yield
    go_on.set()
    assert ended.wait(WAIT_S)


def run_in_one_batch(engine: Engine, first: DenoiseRequest, requests: Sequence[DenoiseRequest]) -> list[Floats]:
    """Final latents of requests that join one that has begun, `first`, after their LoRAs have been loaded."""
    run_together(engine, requests)
    ends: list[queue.Queue[Event]] = [queue.Queue() for _ in requests]
    with held_at_first_step(engine, replace(first, request_id=RequestId("first"))):
        for request, events in zip(requests, ends, strict=True):
            engine.submit(request, events.put)
    return [_latents(events) for events in ends]


def _latents(events: queue.Queue[Event]) -> Floats:
    event = events.get(timeout=WAIT_S)
    assert isinstance(event, Denoised), event
    return event.latents


class Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s
