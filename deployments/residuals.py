"""The transports from a Denoiser replica to ControlNets, in the order of `denoiser.control_transports`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from atelier.catalogue.catalogue import Catalogue
from atelier.control.calls import Contexts, ControlCall, UnknownContexts
from atelier.control.codec import Encoded, decode, encode
from atelier.control.controlnets import load_controlnets
from atelier.control.messages import ResidualsRequest, ResidualsResponse, residuals_of
from atelier.control.residuals import Residuals
from atelier.control.same_node import SameNode
from atelier.control.transports import InOrder, InProcess, Transport, TransportFailed, Wait
from atelier.core.control import TransportName
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from deployments.options import DenoiserOptions

#: Ray's errors for a replica that is dead, overloaded or unresponsive.
_LOST = (RayActorError, DeploymentUnavailableError, BackPressureError, GetTimeoutError, TimeoutError)


def transport(
    catalogue: Catalogue,
    placement: Placement,
    host: ModelHost,
    controlnet: DeploymentHandle | None,
    options: DenoiserOptions,
    *,
    on_failure: Callable[[TransportName], None],
) -> InOrder:
    """Create the transports in `options.control_transports`, in that order.

    Called in the engine's thread, in which the transport `in_process` runs the ControlNets, which `host` holds.
    """
    deadline_s = options.control_deadline_s

    def new(name: TransportName) -> Transport:
        if name == "in_process":
            return InProcess(load_controlnets(catalogue, placement, host))
        assert controlnet is not None, "the graph has a ControlNet if a transport needs it"
        if name == "same_node":
            return SameNode(lambda: _socket_file(controlnet, deadline_s), placement, deadline_s=deadline_s)
        return OverHandle(controlnet, placement, deadline_s=deadline_s)

    return InOrder({name: new(name) for name in options.control_transports}, on_failure=on_failure)


class OverHandle:
    """The transport to ControlNet replicas on any node; the calls of a step may reach different replicas.

    Residuals go through Ray's object store, which copies them less often than gRPC does.
    """

    is_concurrent = False
    weights: Mapping[str, str] = {}

    def __init__(self, controlnet: DeploymentHandle, placement: Placement, *, deadline_s: float) -> None:
        self._controlnet = controlnet.options(_by_reference=True)
        self._placement = placement
        self._deadline_s = deadline_s

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        """Send the calls; contexts are sent only if a replica reports them missing."""
        end_s = time.monotonic() + self._deadline_s
        pending = [self._send(ResidualsRequest(call)) for call in calls]

        def wait() -> list[Residuals]:
            try:
                return [
                    self._residuals(call, response, contexts, end_s)
                    for call, response in zip(calls, pending, strict=True)
                ]
            except TransportFailed:
                for response in pending:
                    response.cancel()
                raise

        return wait

    def _send(self, request: ResidualsRequest) -> DeploymentResponse:
        return self._controlnet.residuals.remote(encode(request))

    def _residuals(
        self, call: ControlCall, pending: DeploymentResponse, contexts: Contexts, end_s: float
    ) -> Residuals:
        response = self._receive(pending, end_s)
        if isinstance(response, UnknownContexts):
            # The repeated call may reach another replica, so it carries all of its contexts.
            ids = dict.fromkeys(row.context_id for row in call.rows)
            request = ResidualsRequest(call, tuple(contexts[context_id] for context_id in ids))
            response = self._receive(self._send(request), end_s)
        return residuals_of(response)

    def _receive(self, pending: DeploymentResponse, end_s: float) -> ResidualsResponse:
        try:
            response: Encoded[ResidualsResponse] = pending.result(timeout_s=max(end_s - time.monotonic(), 1e-3))
        except _LOST as error:
            pending.cancel()
            raise TransportFailed("a ControlNet replica") from error
        return decode(response, self._placement)


def _socket_file(controlnet: DeploymentHandle, deadline_s: float) -> Path:
    """Return the socket of a ControlNet replica on this node. Raises TransportFailed if there is none."""
    node_id = ray.get_runtime_context().get_node_id()
    try:
        answers = controlnet.broadcast("socket_file").results(timeout_s=deadline_s, return_exceptions=True)
    except _LOST as error:
        raise TransportFailed("ControlNet replicas do not answer") from error
    for answer in answers:
        if isinstance(answer, tuple) and answer[0] == node_id:
            return Path(answer[1])
    raise TransportFailed("no ControlNet replica on this node")
