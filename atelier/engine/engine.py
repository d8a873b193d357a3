"""The denoising engine: an inbox, one thread with the step loop, events out.

Knows nothing of Ray, HTTP or asyncio: requests come in by `submit`, events leave through each request's
own `emit`, called in the engine's thread. It never retries. For now it works on one request at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from atelier.core.denoising import Denoised, DenoiseRequest, RequestId, StepEvent
from atelier.core.errors import GenerationFailed, QueueFull
from atelier.engine.request import ActiveRequest, Arrival, Emit, Event
from atelier.engine.runner import Runner, guide
from atelier.engine.samplers import advance

logger = logging.getLogger(__name__)

Runners = Mapping[str, Runner]

_IDLE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    num_waiting: int
    num_active: int
    #: Steps done since the start.
    num_steps: int


class Engine:
    """Starts its thread when made and returns when every model is loaded and warm."""

    def __init__(self, load: Callable[[], Runners], *, num_threads: int, max_waiting: int) -> None:
        """`load` and everything after it runs in the engine's own thread; its error is raised here."""
        self._load = load
        self._num_threads = num_threads
        self._max_waiting = max_waiting
        self._inbox: deque[Arrival] = deque()
        self._cancelled: set[RequestId] = set()
        #: The request in work, and its state once it is admitted.
        self._taken: Arrival | None = None
        self._active: ActiveRequest | None = None
        self._changed = threading.Condition()
        self._is_open = True
        self._num_steps = 0
        self._last_beat_s = time.monotonic()
        self._loaded = threading.Event()
        self._load_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._loaded.wait()
        if self._load_error is not None:
            raise self._load_error

    def submit(self, request: DenoiseRequest, emit: Emit) -> None:
        """Put a request into the inbox; `emit` gets its events, `Denoised` or an error last.

        Raises:
            QueueFull: the inbox is at its bound.
        """
        with self._changed:
            if len(self._inbox) >= self._max_waiting:
                raise QueueFull
            self._inbox.append(Arrival(request, emit))
            self._changed.notify()

    def cancel(self, request_id: RequestId) -> None:
        """Stop before the next step; no event follows. A request that has ended is left alone."""
        with self._changed:
            if any(arrival.request.request_id == request_id for arrival in self._inbox):
                self._inbox = deque(a for a in self._inbox if a.request.request_id != request_id)
            elif self._taken is not None and self._taken.request.request_id == request_id:
                self._cancelled.add(request_id)

    def status(self) -> EngineStatus:
        with self._changed:
            return EngineStatus(
                num_waiting=len(self._inbox),
                num_active=0 if self._taken is None else 1,
                num_steps=self._num_steps,
            )

    def check(self, *, stall_s: float) -> None:
        """Raises RuntimeError if the thread has ended or the loop has stood still for `stall_s`."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        silent_s = time.monotonic() - self._last_beat_s
        if silent_s > stall_s:
            raise RuntimeError(f"the step loop has stood still for {silent_s:.0f} s")

    def close(self) -> None:
        """Stop the loop after the step in progress."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._num_threads)
            self._runners = self._load()
        except BaseException as error:
            self._load_error = error
            return
        finally:
            self._loaded.set()
        while self._is_open:
            self._last_beat_s = time.monotonic()
            self._drop_cancelled()
            self._admit()
            self._step()
            self._retire()

    def _drop_cancelled(self) -> None:
        with self._changed:
            if self._taken is not None and self._taken.request.request_id in self._cancelled:
                self._taken = self._active = None
            self._cancelled.clear()

    def _admit(self) -> None:
        """Take the oldest request if there is room; waits a little when there is nothing to do."""
        with self._changed:
            if self._taken is not None:
                return
            if not self._inbox:
                self._changed.wait(_IDLE_WAIT_S)
            if not self._inbox:
                return
            self._taken = self._inbox.popleft()
        with self._isolated(self._taken):
            self._active = self._runners[self._taken.request.model].admit(self._taken)

    def _step(self) -> None:
        active = self._active
        if active is None:
            return
        request = active.arrival.request
        with self._isolated(active.arrival):
            noise_pred = self._runners[request.model].unet(active)
            if request.is_guided:
                noise_pred = guide(noise_pred, request.guidance_scale)
            active.latents = advance(active.latents, noise_pred, active.step)
            active.step_index += 1
        self._num_steps += 1

    def _retire(self) -> None:
        active = self._active
        if active is None:
            return
        with self._isolated(active.arrival):
            if active.arrival.request.wants_steps:
                active.arrival.emit(StepEvent(active.step_index, len(active.schedule.steps)))
            if active.is_finished:
                self._end(active.arrival, Denoised(active.final_latents()))

    @contextmanager
    def _isolated(self, arrival: Arrival) -> Iterator[None]:
        """The step loop's boundary: whatever goes wrong inside ends this request and no other."""
        try:
            yield
        except Exception as error:
            request_id = arrival.request.request_id
            logger.exception("request failed", extra={"request_id": request_id})
            self._end(arrival, GenerationFailed(f"Request {request_id} failed: {error}"))

    def _end(self, arrival: Arrival, event: Event) -> None:
        with self._changed:
            self._taken = self._active = None
        arrival.emit(event)
