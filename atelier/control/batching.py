"""Batches the ControlNet calls of several Denoisers in one thread.

Calls that queue up while another runs are computed next, in one pass per ControlNet and latent size; no call waits
for others to join it. Calls of `exact` requests run alone, because their bits depend on the rows of a call.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch

from atelier.control.calls import ControlCall, ControlContext, UnknownContexts
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.models.thread import ModelThread

#: The result of a ControlNet call: its residuals, or the ids of the contexts that the caller must send first.
Answer = Residuals | UnknownContexts


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A queued call, the contexts sent with it, and the future that receives its answer."""

    call: ControlCall
    contexts: Sequence[ControlContext]
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def key(self) -> object:
        """Batching key: calls with equal keys run as one. A call of fixed width shares its key with no other."""
        return self if self.call.width else (self.call.controlnet, self.call.model_input.shape[1:])


class ResidualBatcher:
    """Collects calls from any thread and answers them in the ControlNets' own thread."""

    def __init__(self, controlnets: ControlNets, thread: ModelThread) -> None:
        """`controlnets` must have been loaded in `thread`."""
        self._controlnets = controlnets
        self._thread = thread
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    def submit(self, call: ControlCall, contexts: Sequence[ControlContext]) -> Future[Answer]:
        """Queue a call. `contexts` are prepared before it runs; those that the replica already has can be omitted."""
        waiting = _Waiting(call, contexts)
        with self._lock:
            self._waiting.append(waiting)
        self._thread.submit(self._answer_waiting)
        return waiting.answer

    def _answer_waiting(self) -> None:
        with self._lock:
            submitted, self._waiting = self._waiting, []
        groups: dict[object, list[_Waiting]] = {}
        for waiting in submitted:
            groups.setdefault(waiting.key, []).append(waiting)
        for group in groups.values():
            try:
                self._answer([waiting for waiting in group if self._prepare(waiting)])
            except Exception as error:
                # Catch everything, because an error must fail only the calls of this group and not the thread.
                for waiting in group:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)

    def _prepare(self, waiting: _Waiting) -> bool:
        """Prepare the contexts sent with a call; reply with `UnknownContexts` if any others are missing."""
        for context in waiting.contexts:
            self._controlnets.prepare(context)
        unknown = self._controlnets.unknown(waiting.call.rows)
        if unknown:
            waiting.answer.set_result(UnknownContexts(unknown))
        return not unknown

    def _answer(self, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        residuals = self._controlnets.residuals(_joined([waiting.call for waiting in group]))
        first = 0
        for waiting in group:
            rows = slice(first, first + len(waiting.call.rows))
            waiting.answer.set_result(residuals.select(rows))
            first = rows.stop


def _joined(calls: Sequence[ControlCall]) -> ControlCall:
    """Join the rows of all calls into one call."""
    return replace(
        calls[0],
        rows=tuple(row for call in calls for row in call.rows),
        model_input=torch.cat([call.model_input for call in calls]),
        timesteps=torch.cat([call.timesteps for call in calls]),
        num_tokens=max(call.num_tokens for call in calls),
    )
