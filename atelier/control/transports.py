"""How a Denoiser reaches ControlNets: one Protocol, and the order in which transports stand in for each other.

Every transport ends in the same `ControlNets.residuals`, so the picture is the same by each of them. Here is the one
inside the process; `same_node` has the one over shared memory, and `deployments` the one over a Serve handle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from atelier.control.calls import Contexts, ControlCall
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.core.control import TransportName
from atelier.core.errors import ReplicaLost

logger = logging.getLogger(__name__)

#: Waits for the answers to a step's calls, in their order. Raises TransportFailed.
Wait = Callable[[], list[Residuals]]

#: A transport that failed is not asked again for so long: steps wait for a dead replica once, not each of them.
_REST_S = 5.0


class TransportFailed(Exception):
    """Nobody answered within the deadline, or the replica is gone."""


class Transport(Protocol):
    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Send the calls of a step on their way; `contexts` has those of all its rows. Raises TransportFailed."""
        ...


class InProcess:
    """The weights are in this process: exact, without a hop, and the Denoiser pays their memory."""

    def __init__(self, controlnets: ControlNets) -> None:
        self._controlnets = controlnets

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        answers = []
        for call in calls:
            for context_id in self._controlnets.unknown(call.rows):
                self._controlnets.open(contexts[context_id])
            answers.append(self._controlnets.residuals(call))
        return lambda: answers


class InOrder:
    """Transports in the order in which they are asked; the next stands in where one fails, also within a step."""

    def __init__(
        self,
        transports: dict[TransportName, Transport],
        *,
        on_failure: Callable[[TransportName], None] = lambda _: None,
    ) -> None:
        self._transports = transports
        self._on_failure = on_failure
        self._rests_until_s: dict[TransportName, float] = {}

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Raises ReplicaLost when no transport is left, here or while waiting; at once while all of them rest."""
        now_s = time.monotonic()
        awake = [name for name in self._transports if self._rests_until_s.get(name, 0) <= now_s]
        return self._start(awake, calls, contexts)

    def _start(self, names: Sequence[TransportName], calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        if not names:
            raise ReplicaLost("No ControlNet replica answers.")
        name, *others = names

        def stand_in(error: TransportFailed) -> Wait:
            logger.warning("control transport %s failed", name, exc_info=error)
            self._on_failure(name)
            self._rests_until_s[name] = time.monotonic() + _REST_S
            return self._start(others, calls, contexts)

        try:
            wait = self._transports[name].start(calls, contexts)
        except TransportFailed as error:
            return stand_in(error)

        def wait_or_stand_in() -> list[Residuals]:
            try:
                return wait()
            except TransportFailed as error:
                return stand_in(error)()

        return wait_or_stand_in
