"""How a Denoiser reaches ControlNets: the `Transport` protocol, and the fallback from one transport to the next.

Every transport calls the same `ControlNets.residuals`, so the image does not depend on the transport. The transport
inside a process is here, the one over shared memory in `same_node`, and the one over a Serve handle in
`deployments.residuals`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from atelier.control.calls import Contexts, ControlCall
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.core.control import TransportName
from atelier.core.errors import ReplicaLost

logger = logging.getLogger(__name__)

#: Waits for the residuals of a step's calls and returns them in the calls' order. Raises TransportFailed.
Wait = Callable[[], list[Residuals]]

#: A transport that failed is skipped for this many seconds, so that not every step waits for a dead replica.
_SKIP_FAILED_S = 5.0


class TransportFailed(Exception):
    """No ControlNet replica was found, or the replica failed or did not respond within the deadline."""


class Transport(Protocol):
    """A way for a Denoiser to get residuals from ControlNets."""

    @property
    def is_concurrent(self) -> bool:
        """Whether calls may be sent before the residuals of those before are there, and awaited in any thread."""
        ...

    @property
    def weights(self) -> Mapping[str, str]:
        """Hashes of the weights of the ControlNets in this process, by their ids."""
        ...

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Send the calls of a step; `contexts` holds the contexts of all their rows. Raises TransportFailed."""
        ...


class InProcess:
    """The transport to ControlNets in the Denoiser's own process: no hop, but every Denoiser holds their weights."""

    is_concurrent = True

    def __init__(self, controlnets: ControlNets) -> None:
        self._controlnets = controlnets
        self.weights: Mapping[str, str] = controlnets.weights

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Prepare the contexts; the returned function computes the residuals, in any thread."""
        ready = []
        for call in calls:
            for context_id in self._controlnets.unknown(call.rows):
                self._controlnets.prepare(contexts[context_id])
            ready.append(self._controlnets.ready(call))
        return lambda: [compute() for compute in ready]


class InOrder:
    """Transports in the order in which they are tried; where one fails, the next takes over, even within a step."""

    def __init__(
        self,
        transports: dict[TransportName, Transport],
        *,
        on_failure: Callable[[TransportName], None] = lambda _: None,
    ) -> None:
        self._transports = transports
        self._on_failure = on_failure
        self._skipped_until_s: dict[TransportName, float] = {}

    @property
    def is_concurrent(self) -> bool:
        return all(transport.is_concurrent for transport in self._transports.values())

    @property
    def weights(self) -> Mapping[str, str]:
        return {name: digest for one in self._transports.values() for name, digest in one.weights.items()}

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Send the calls. Raises ReplicaLost, here or while waiting, when no transport is left or all are skipped."""
        now_s = time.monotonic()
        names = [name for name in self._transports if self._skipped_until_s.get(name, 0) <= now_s]
        return self._start(names, calls, contexts)

    def _start(self, names: Sequence[TransportName], calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        if not names:
            raise ReplicaLost("No ControlNet replica answers.")
        name, *others = names

        def fall_back(error: TransportFailed) -> Wait:
            logger.warning("control transport %s failed", name, exc_info=error)
            self._on_failure(name)
            self._skipped_until_s[name] = time.monotonic() + _SKIP_FAILED_S
            return self._start(others, calls, contexts)

        try:
            wait = self._transports[name].start(calls, contexts)
        except TransportFailed as error:
            return fall_back(error)

        def wait_or_fall_back() -> list[Residuals]:
            try:
                return wait()
            except TransportFailed as error:
                return fall_back(error)()

        return wait_or_fall_back
