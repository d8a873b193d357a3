"""The denoising engine: an inbox, one thread with the step loop, events out.

Knows nothing of Ray, HTTP or asyncio: requests come in by `submit`, events leave through each request's
own `emit`, called in the engine's thread. It never retries a request.
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

from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import AtelierError, GenerationFailed, QueueFull
from atelier.core.origin import Origin
from atelier.engine.batch import Batch, BatchKey
from atelier.engine.policy import admissible, next_key
from atelier.engine.request import Arrival, Emit, Event
from atelier.engine.runner import Runner

logger = logging.getLogger(__name__)

Runners = Mapping[str, Runner]

_IDLE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    num_waiting: int
    num_active: int
    #: UNet steps since the start, however many requests shared one.
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step of the loop was like."""

    num_requests: int
    num_rows: int
    #: Copies beside them that filled a call of `exact` requests to its width.
    num_padding_rows: int
    num_waiting: int
    step_s: float
    #: From the end of the step before; None after a pause without work.
    gap_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    num_threads: int
    #: Requests the inbox holds.
    max_waiting: int
    #: Rows of requests that share a UNet call.
    max_rows: int
    #: Rows of every UNet call of `exact` requests.
    exact_width: int


class Engine:
    """Starts its thread when made and returns when every model is loaded and warm."""

    def __init__(
        self,
        load: Callable[[], Runners],
        settings: EngineSettings,
        *,
        place: str,
        observe: Callable[[StepReport], None] = lambda _: None,
    ) -> None:
        """`load` and everything after it runs in the engine's own thread; its error is raised here. `place` is the
        results' origin."""
        self._load = load
        self._settings = settings
        self._place = place
        self._observe = observe
        self._batches: dict[BatchKey, Batch] = {}
        #: For each batch the number of its last step.
        self._last_step: dict[BatchKey, int] = {}
        self._changed = threading.Condition()
        # Shared with the callers' threads, under `_changed`:
        self._inbox: deque[Arrival] = deque()
        self._in_work: set[RequestId] = set()
        self._cancelled: set[RequestId] = set()
        self._is_open = True
        self._num_steps = 0
        self._last_beat_s = time.monotonic()
        #: End of the last step; None after a pause without work.
        self._last_end_s: float | None = None
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
            if len(self._inbox) >= self._settings.max_waiting:
                raise QueueFull
            self._inbox.append(Arrival(request, emit))
            self._changed.notify()

    def cancel(self, request_id: RequestId) -> None:
        """Stop before the next step; no event follows. A request that has ended is left alone."""
        with self._changed:
            self._inbox = deque(arrival for arrival in self._inbox if arrival.request.request_id != request_id)
            if request_id in self._in_work:
                self._cancelled.add(request_id)

    def status(self) -> EngineStatus:
        with self._changed:
            return EngineStatus(
                num_waiting=len(self._inbox), num_active=len(self._in_work), num_steps=self._num_steps
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
            torch.set_num_threads(self._settings.num_threads)
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
            batch = self._next_batch()
            if batch is not None:
                self._step(batch)
                self._retire(batch)

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
        for request_id in cancelled:
            self._forget(request_id)

    def _admit(self) -> None:
        """Take in all that fit their batches; waits a little when there is nothing to do."""
        with self._changed:
            if not self._inbox and not self._batches:
                self._last_end_s = None
                self._changed.wait(_IDLE_WAIT_S)
            arrivals = admissible(
                self._inbox,
                {key: batch.num_rows for key, batch in self._batches.items()},
                key_of=lambda arrival: BatchKey.of(arrival.request),
                rows_of=lambda arrival: arrival.request.num_rows,
                max_rows=self._settings.max_rows,
            )
            self._inbox = deque(arrival for arrival in self._inbox if arrival not in arrivals)
            self._in_work.update(arrival.request.request_id for arrival in arrivals)
        for arrival in arrivals:
            with self._isolated(arrival):
                request = self._runners[arrival.request.model].admit(arrival)
                self._batch_of(BatchKey.of(arrival.request)).join(request)

    def _batch_of(self, key: BatchKey) -> Batch:
        if key not in self._batches:
            self._batches[key] = Batch(key, exact_width=self._settings.exact_width)
            self._last_step[key] = self._num_steps - 1
        return self._batches[key]

    def _next_batch(self) -> Batch | None:
        key = next_key(self._last_step)
        return None if key is None else self._batches[key]

    def _step(self, batch: Batch) -> None:
        started_s = time.monotonic()
        num_requests, num_rows, num_padding_rows = len(batch.requests), batch.num_rows, batch.num_padding_rows
        runner = self._runners[batch.key.model]
        try:
            runner.step(batch.requests, batch.packed)
        except Exception:
            logger.exception("a step failed; its requests take it one by one", extra={"key": batch.key})
            for request in list(batch.requests):
                with self._isolated(request.arrival):
                    runner.step([request], batch.pack([request]))
        ended_s = time.monotonic()
        self._num_steps += 1
        if batch.key in self._last_step:
            self._last_step[batch.key] = self._num_steps
        self._observe(
            StepReport(
                num_requests=num_requests,
                num_rows=num_rows,
                num_padding_rows=num_padding_rows,
                num_waiting=len(self._inbox),
                step_s=ended_s - started_s,
                gap_s=None if self._last_end_s is None else started_s - self._last_end_s,
            )
        )
        self._last_end_s = ended_s

    def _retire(self, batch: Batch) -> None:
        for request in list(batch.requests):
            arrival = request.arrival
            with self._isolated(arrival):
                if not request.is_finite:
                    raise ArithmeticError("the latents are not finite")
                if (event := request.event()) is not None:
                    arrival.emit(event)
                if request.is_finished:
                    self._end(arrival, Denoised(request.latents.cpu().numpy(), Origin(self._place, request.weights)))

    @contextmanager
    def _isolated(self, arrival: Arrival) -> Iterator[None]:
        """The step loop's boundary: whatever goes wrong inside ends this request and no other."""
        try:
            yield
        except Exception as error:
            request_id = arrival.request.request_id
            logger.exception("request failed", extra={"request_id": request_id})
            if not isinstance(error, AtelierError):
                error = GenerationFailed(f"Request {request_id} failed: {error}")
            self._end(arrival, error)

    def _end(self, arrival: Arrival, event: Event) -> None:
        self._forget(arrival.request.request_id)
        try:
            arrival.emit(event)
        except Exception:
            logger.exception("nobody takes the result", extra={"request_id": arrival.request.request_id})

    def _forget(self, request_id: RequestId) -> None:
        with self._changed:
            self._in_work.discard(request_id)
        for key, batch in list(self._batches.items()):
            if batch.leave(request_id) and not batch.requests:
                del self._batches[key], self._last_step[key]
