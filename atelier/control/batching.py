"""Residuals for several Denoisers from one thread, batched where their calls agree.

Whatever waits while a call runs is answered next, in as few calls as its ControlNets and sizes allow; nothing waits
for company. Calls of `exact` requests run alone: their bits depend on the rows of a call.
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

Answer = Residuals | UnknownContexts


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    call: ControlCall
    contexts: Sequence[ControlContext]
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def key(self) -> object:
        """Equal where calls may run as one."""
        return self if self.call.width else (self.call.controlnet, self.call.model_input.shape[1:])


class ResidualBatcher:
    def __init__(self, controlnets: ControlNets, thread: ModelThread) -> None:
        """`controlnets` were made in the thread."""
        self._controlnets = controlnets
        self._thread = thread
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []

    def submit(self, call: ControlCall, contexts: Sequence[ControlContext]) -> Future[Answer]:
        """Residuals of the call, after its contexts were told with it or before; else which of them are not known."""
        waiting = _Waiting(call, contexts)
        with self._lock:
            self._waiting.append(waiting)
        self._thread.submit(self._answer_waiting)
        return waiting.answer

    def _answer_waiting(self) -> None:
        with self._lock:
            arrived, self._waiting = self._waiting, []
        together: dict[object, list[_Waiting]] = {}
        for waiting in arrived:
            together.setdefault(waiting.key, []).append(waiting)
        for group in together.values():
            try:
                self._answer([waiting for waiting in group if self._is_told(waiting)])
            except Exception as error:
                # The thread's boundary: it goes to whoever asked.
                for waiting in group:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)

    def _is_told(self, waiting: _Waiting) -> bool:
        """Open the contexts that came along; answer at once if others are missing."""
        for context in waiting.contexts:
            self._controlnets.open(context)
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
    return replace(
        calls[0],
        rows=tuple(row for call in calls for row in call.rows),
        model_input=torch.cat([call.model_input for call in calls]),
        timesteps=torch.cat([call.timesteps for call in calls]),
        num_tokens=max(call.num_tokens for call in calls),
    )
