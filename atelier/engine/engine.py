"""The denoising engine: a queue of waiting requests, one thread with the step loop, and events out.

Requests enter by `submit`; events leave by each request's own `emit`, which is called in the engine's thread. The
engine knows nothing of Ray, HTTP or asyncio, and never retries a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Set
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import DeadlineExceeded, ReplicaLost
from atelier.core.origin import Origin
from atelier.core.work import UNMEASURED, Loads, StepTime, Work, loads_of
from atelier.engine.batch import Batch
from atelier.engine.queue import Lane, Queue, lane_of
from atelier.engine.request import BatchKey, Emit, Event, RunningRequest, Submitted
from atelier.engine.runners import Runners
from atelier.engine.step_times import StepTimes
from atelier.engine.stepping import take_step
from atelier.models.failures import Failures
from atelier.models.host import HostStatus

logger = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """Counts of an engine at one moment."""

    #: With those that have begun and step aside for others.
    num_waiting: int
    num_running: int
    #: Steps since the start; a step that several requests share counts once.
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Measurements of one step of a batch in the engine."""

    num_requests: int
    num_rows: int
    #: Number of copied rows that padded a UNet call of `exact` requests to its fixed width; 0 for `fast` requests.
    num_padding_rows: int
    num_waiting: int
    #: Number of requests in all batches that have further steps to do.
    num_running: int
    step_s: float
    #: Time from the end of the previous step to the start of this one; None at the first step or after an idle pause.
    gap_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of an engine, the same for all its models."""

    num_threads: int
    #: Maximum number of waiting requests of each priority.
    max_waiting: int
    #: Maximum number of rows (one per image and prompt role) that are denoised at the same time, in all batches; rows
    #: of larger images, with longer prompts or with LoRAs count more.
    max_rows: int
    #: Number of rows in every UNet call of `exact` requests; missing rows are padded with copies.
    exact_width: int


class Engine:
    """Denoises requests in its own thread, batching their steps."""

    def __init__(
        self,
        load: Callable[[], Runners],
        settings: EngineSettings,
        *,
        place: str,
        observe: Callable[[StepReport], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the engine's thread, and return when every model is loaded and warmed up.

        `load` runs in the engine's thread; an exception in it is raised here. `place` (a hash of device, precision,
        libraries, threads and rows per call) becomes the `Origin.place` of results. `observe` is called after every
        step, in the engine's thread. `now_s` is the clock, in seconds, of step reports and of `check`.
        """
        self._load = load
        self._settings = settings
        self._place = place
        self._observe = observe
        self._now_s = now_s
        self._batches: dict[Lane, Batch] = {}
        #: Requests that have begun and wait.
        self._parked: dict[RequestId, RunningRequest] = {}
        self._changed = threading.Condition()
        # Threads share these, and use them only under `_changed`.
        self._queue: Queue[Submitted] = Queue(
            max_waiting=settings.max_waiting,
            max_cost=settings.max_rows,
            model_of=_model_of,
            bring_s=self._bring_s,
            fits=self._fit,
        )
        self._limits = (settings.max_waiting, settings.max_rows)
        self._cancelled: set[RequestId] = set()
        self._step_times = StepTimes()
        self._is_open = True
        self._num_steps = 0
        self._failures = Failures()
        #: Start of the current iteration of the step loop, on the clock of `now_s`.
        self._last_beat_s = now_s()
        #: End of the last step; None after an idle pause.
        self._last_end_s: float | None = None
        self._loaded = threading.Event()
        self._load_error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self._loaded.wait()
        if self._load_error is not None:
            raise self._load_error

    def submit(self, request: DenoiseRequest, emit: Emit) -> None:
        """Queue a request. `emit` receives its events; the last one is `Denoised` or an error.

        Raises:
            QueueFull: `max_waiting` requests of this priority are waiting.
            ReplicaLost: the engine's thread has ended.
            ModelNotFound: there is no such model.
        """
        submitted = self._runners.submitted(request, emit, self._now_s())
        for loading in submitted.loading:
            loading.add_done_callback(self._wake)
        with self._changed:
            if not self._is_open:
                raise ReplicaLost
            self._queue.submit(submitted)
            self._changed.notify()

    def _bring_s(self, model: Hashable) -> float:
        return self._runners.bring_s(str(model))

    def _fit(self, models: Set[Hashable]) -> bool:
        return self._runners.fit(set(map(str, models)), self._limits[1])

    def _wake(self, _: object) -> None:
        """Let the loop see that a request has its model or LoRAs."""
        with self._changed:
            self._queue.changed()
            self._changed.notify()

    def cancel(self, request_id: RequestId) -> None:
        """Remove a request before the next step; it emits no further event. Does nothing if it has finished."""
        with self._changed:
            if self._queue.has_begun(request_id):
                self._cancelled.add(request_id)
            else:
                self._queue.remove(request_id)

    def set_limits(self, *, max_waiting: int, max_rows: int) -> None:
        """Change these settings; requests that wait or run stay."""
        with self._changed:
            self._limits = (max_waiting, max_rows)
        self._bound_queue()

    def _bound_queue(self) -> None:
        """Let no more rows run than the limits and memory allow."""
        with self._changed:
            max_waiting, max_rows = self._limits
            self._queue.set_limits(max_waiting=max_waiting, max_cost=min(max_rows, self._runners.max_rows))

    def status(self) -> EngineStatus:
        """Return the engine's present counts."""
        with self._changed:
            return EngineStatus(
                num_waiting=self._queue.num_waiting, num_running=self._queue.num_running, num_steps=self._num_steps
            )

    def loads(self) -> Loads:
        """Return the work of all requests, waiting and running, as if none had taken a step."""
        with self._changed:
            items = self._queue.items()
        return loads_of(Work.of(submitted.request) for submitted in items)

    def step_time(self) -> StepTime:
        """Return how long steps have taken lately, of all models."""
        with self._changed:
            return self._step_times.fit() or UNMEASURED

    def resident_loras(self) -> list[str]:
        """Return the ids of the LoRAs on the device."""
        return self._runners.resident_loras()

    def load_model(self, model: str) -> Future[None]:
        """Bring a model into memory. Raises ModelNotFound; the future raises ModelUnavailable."""
        return self._runners.bring(model)

    def unload_model(self, model: str) -> bool:
        """Take a model out of memory; return whether it is still there, because it is used."""
        return self._runners.unload(model)

    def memory(self) -> HostStatus:
        """Return which UNets and ControlNets are in memory."""
        return self._runners.memory()

    def origin(self) -> Origin:
        """Return the engine's place, and the weights of the UNets and ControlNets that this process has loaded."""
        return Origin(self._place, self._runners.weights)

    def check(self, *, stall_s: float) -> None:
        """Raise RuntimeError if the engine cannot work.

        Its thread has ended, the last requests have all failed, or the loop has made no progress for `stall_s`
        seconds.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        self._failures.check()
        silent_s = self._now_s() - self._last_beat_s
        if silent_s > stall_s:
            raise RuntimeError(f"the step loop has made no progress for {silent_s:.0f} s")

    def close(self) -> None:
        """Stop the loop after the step in progress. Requests that have not finished emit no further event."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._settings.num_threads)
            self._runners = self._load()
            self._bound_queue()
        except BaseException as error:
            self._load_error = error
            return
        finally:
            self._loaded.set()
        try:
            while self._is_open:
                self._iterate()
        except torch.AcceleratorError:
            logger.exception("the device has failed; this engine ends")
        finally:
            if self._is_open:
                self._is_open = False
                self._lose_all()

    def _iterate(self) -> None:
        """Do one step. An error outside of the requests' own work ends them all, and the loop goes on.

        Raises torch.AcceleratorError.
        """
        self._last_beat_s = self._now_s()
        try:
            self._remove_cancelled()
            self._end_expired()
            self._admit()
            with self._changed:
                lane = self._queue.next_lane()
            if lane is not None:
                batch = self._batches[lane]
                self._step(lane, batch)
                self._retire(batch)
        except torch.AcceleratorError:
            raise
        except Exception:
            logger.exception("the step loop failed")
            self._failures.count()
            self._lose_all()

    def _lose_all(self) -> None:
        """End all requests with ReplicaLost."""
        with self._changed:
            lost = self._queue.items()
        for submitted in lost:
            self._finish(submitted, ReplicaLost())

    def _remove_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
        for request_id in cancelled:
            self._remove(request_id)

    def _end_expired(self) -> None:
        """End the requests that have reached their time limit."""
        now_s = self._now_s()
        with self._changed:
            expired = [submitted for submitted in self._queue.items() if submitted.end_s <= now_s]
        for submitted in expired:
            limit_s = submitted.request.time_limit_s
            self._finish(submitted, DeadlineExceeded(f"Not denoised within its time limit of {limit_s} s."))

    def _admit(self) -> None:
        """Let the queue admit requests and park others; when idle, first wait up to `_IDLE_WAIT_S` for one."""
        with self._changed:
            if not self._queue.has_work:
                self._last_end_s = None
                self._changed.wait(_IDLE_WAIT_S)
            changes = self._queue.admit()
        for submitted in changes.parked:
            self._park(submitted)
        for submitted in changes.admitted:
            with self._isolated(submitted):
                self._join(submitted)

    def _park(self, submitted: Submitted) -> None:
        request = self._batches[lane_of(submitted)].request(submitted.request_id)
        self._leave(submitted.request_id)
        self._parked[submitted.request_id] = request

    def _join(self, submitted: Submitted) -> None:
        """Let a request take part in its batch's steps, from the beginning or from where it was parked."""
        runner, lane = self._runners.runner(submitted.key.model), lane_of(submitted)
        self._bound_queue()
        request = self._parked.pop(submitted.request_id, None)
        if request is None:
            request = runner.begin(submitted, self._place)
            request.snapshot_s = self._now_s()
            request.queue_s = request.snapshot_s - submitted.submitted_s
        prompts = runner.prompts(request)
        if lane not in self._batches:
            self._batches[lane] = runner.new_batch(submitted.key, exact_width=self._settings.exact_width)
        self._batches[lane].join(request, prompts)

    def _step(self, lane: Lane, batch: Batch) -> None:
        start_s = self._now_s()
        num_requests, num_rows, num_padding_rows = len(batch.requests), batch.num_rows, batch.num_padding_rows
        pixel_rows = num_rows * batch.key.size.num_pixels
        take_step(self._runners.runner(batch.key.model), batch, self._isolated)
        end_s = self._now_s()
        gap_s = None if self._last_end_s is None else start_s - self._last_end_s
        self._last_end_s = end_s
        self._num_steps += 1
        with self._changed:
            # With the time between steps, in which requests join and leave.
            self._step_times.add(pixel_rows, end_s - start_s + (gap_s or 0.0))
            self._queue.took(lane, end_s - start_s)
            num_waiting, num_running = self._queue.num_waiting, self._queue.num_running
        report = StepReport(
            num_requests=num_requests,
            num_rows=num_rows,
            num_padding_rows=num_padding_rows,
            num_waiting=num_waiting,
            num_running=num_running - sum(request.is_finished for request in batch.requests),
            step_s=end_s - start_s,
            gap_s=gap_s,
        )
        try:
            self._observe(report)
        except Exception:
            logger.exception("a step was not observed")

    def _retire(self, batch: Batch) -> None:
        """Emit the events of a batch's step; finish requests that are done or whose latents are not finite."""
        for request in list(batch.requests):
            with self._isolated(request.submitted):
                event = request.step_event(self._now_s(), self._place)
                has_latents = event is not None and event.has_latents
                if not request.is_finite(waits=has_latents or request.is_finished):
                    raise ArithmeticError("the latents are not finite")
                self._failures.succeeded()
                if event is not None:
                    request.submitted.emit(event)
                if request.is_finished:
                    latents = request.latents.cpu().contiguous().numpy()
                    denoised = Denoised(latents, request.origin(self._place), request.queue_s)
                    self._finish(request.submitted, denoised)

    @contextmanager
    def _isolated(self, submitted: Submitted) -> Iterator[None]:
        """Confine failures: an exception in the context ends `submitted`, unless the device has failed."""
        try:
            yield
        except torch.AcceleratorError:
            raise
        except Exception as error:
            logger.exception("request failed", extra={"request_id": submitted.request_id})
            self._finish(submitted, self._failures.failed(error, what=f"Request {submitted.request_id}"))

    def _finish(self, submitted: Submitted, event: Event) -> None:
        """Remove a request and emit its last event."""
        self._remove(submitted.request_id)
        try:
            submitted.emit(event)
        except Exception:
            logger.exception(
                "the client left before the result was ready", extra={"request_id": submitted.request_id}
            )

    def _remove(self, request_id: RequestId) -> None:
        with self._changed:
            self._queue.remove(request_id)
        self._parked.pop(request_id, None)
        self._leave(request_id)

    def _leave(self, request_id: RequestId) -> None:
        """Take a request out of its batch, if it is in one."""
        for lane, batch in list(self._batches.items()):
            batch.leave(request_id)
            if not batch.requests:
                del self._batches[lane]


def _model_of(key: Hashable) -> Hashable:
    assert isinstance(key, BatchKey)
    return key.model
