"""Admission: a request is rejected at once if it would wait too long behind those that are already admitted.

The wait is predicted from the work in progress, but for that of lower priority, and the rate at which work has been
finished lately. Work has any unit that is proportional to the time it takes, such as pixel steps for generations.
The rate is that of finished requests alone: work that is cancelled, or still in progress, has taken time without a
result.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from atelier.core.errors import QueueFull
from atelier.core.priority import Priority, is_before

#: Finished work counts half as much in the rate after so many seconds of work.
_HALF_LIFE_S = 30.0
#: Seconds for which an arriving request counts; a client that sends its body slowly holds up nobody.
_ARRIVAL_S = 1.0


class Admission:
    """Counts the work of admitted requests, and predicts how long another one would wait."""

    def __init__(
        self, *, max_wait_s: float, max_unmeasured: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Admit work whose predicted wait is at most `max_wait_s`.

        As long as nothing has finished, so that the rate is unknown, `max_unmeasured` requests are admitted.
        """
        #: It may be changed at any time.
        self.max_wait_s = max_wait_s
        self._max_unmeasured = max_unmeasured
        self._now_s = now_s
        self._updated_s = now_s()
        self._num_admitted = 0
        self._work: Counter[Priority] = Counter()
        #: Seconds in which there was work, and those that fell to one request if each had an equal share.
        self._busy_s, self._share_s = 0.0, 0.0
        #: Finished work, its number of requests and the shares of time it took; all decay with `_HALF_LIFE_S`.
        self._finished_work, self._num_finished, self._finished_s = 0.0, 0.0, 0.0
        self._decayed_s = 0.0
        #: When each request began to arrive whose work is not known yet.
        self._arrivals: dict[object, float] = {}

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Count a request as arriving within the context, for a second at most.

        The work of an arriving request is not known yet; it counts as the average of finished requests. Raises
        QueueFull if the predicted wait is too long.
        """
        now_s, arrival = self._now_s(), object()
        self._check("standard", sum(now_s - arrived_s < _ARRIVAL_S for arrived_s in self._arrivals.values()))
        self._arrivals[arrival] = now_s
        try:
            yield
        finally:
            del self._arrivals[arrival]

    @contextmanager
    def admitted(self, work: int, priority: Priority = "standard") -> Iterator[Callable[[], None]]:
        """Count `work` as in progress within the context; call the result when it is finished.

        It waits for the work in progress of its priority and of higher ones. Raises QueueFull if the predicted wait
        is too long; its `retry_after_s` is the excess.
        """
        self._check(priority, 0)
        self._num_admitted += 1
        self._work[priority] += work
        started_s = self._share_s

        def finish() -> None:
            self._update()
            self._decay()
            self._finished_work += work
            self._num_finished += 1
            self._finished_s += self._share_s - started_s

        try:
            yield finish
        finally:
            self._update()
            self._num_admitted -= 1
            self._work[priority] -= work

    def _check(self, priority: Priority, num_arriving: int) -> None:
        self._update()
        excess_s = self._predicted_wait_s(priority, num_arriving) - self.max_wait_s
        if excess_s > 0:
            raise QueueFull(retry_after_s=math.ceil(excess_s))

    def _predicted_wait_s(self, priority: Priority, num_arriving: int) -> float:
        if self._finished_work:
            work = sum(work for of_class, work in self._work.items() if not is_before(priority, of_class))
            arriving_work = num_arriving * self._finished_work / self._num_finished
            return (work + arriving_work) * self._finished_s / self._finished_work
        return 0.0 if self._num_admitted + num_arriving < self._max_unmeasured else self.max_wait_s + 1

    def _update(self) -> None:
        """Let time pass, which counts only while there is work."""
        now_s = self._now_s()
        elapsed_s, self._updated_s = now_s - self._updated_s, now_s
        if self._num_admitted:
            self._busy_s += elapsed_s
            self._share_s += elapsed_s / self._num_admitted

    def _decay(self) -> None:
        decay = 0.5 ** ((self._busy_s - self._decayed_s) / _HALF_LIFE_S)
        self._decayed_s = self._busy_s
        self._finished_work *= decay
        self._num_finished *= decay
        self._finished_s *= decay
