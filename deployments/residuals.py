"""How a Denoiser replica reaches ControlNets: the transports of its options, in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from atelier.catalogue.catalogue import Catalogue
from atelier.control.calls import Contexts, ControlCall, UnknownContexts
from atelier.control.controlnets import load_controlnets
from atelier.control.residuals import Residuals
from atelier.control.same_node import SameNode
from atelier.control.transports import InOrder, InProcess, Transport, TransportFailed, Wait
from atelier.control.wire import Ask, Reply, residuals_of
from atelier.core.control import TransportName
from atelier.models.loading import Placement
from deployments.options import DenoiserOptions

#: What Ray raises when a replica is gone, full or silent.
_LOST = (RayActorError, DeploymentUnavailableError, BackPressureError, GetTimeoutError, TimeoutError)


def transport(
    catalogue: Catalogue,
    placement: Placement,
    controlnet: DeploymentHandle,
    options: DenoiserOptions,
    *,
    on_failure: Callable[[TransportName], None],
) -> InOrder:
    """Made in the engine's thread: the weights of `in_process` are used there."""
    deadline_s = options.control_deadline_s

    def new(name: TransportName) -> Transport:
        if name == "in_process":
            return InProcess(load_controlnets(catalogue, placement))
        if name == "same_node":
            return SameNode(lambda: _socket_file(controlnet, deadline_s), placement, deadline_s=deadline_s)
        return OverHandle(controlnet, placement, deadline_s=deadline_s)

    return InOrder({name: new(name) for name in options.control_transports}, on_failure=on_failure)


class OverHandle:
    """Asks a ControlNet replica anywhere; the calls of a step may go to different ones."""

    def __init__(self, controlnet: DeploymentHandle, placement: Placement, *, deadline_s: float) -> None:
        self._controlnet = controlnet
        self._placement = placement
        self._deadline_s = deadline_s

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:
        end_s = time.monotonic() + self._deadline_s
        asked = [self._controlnet.residuals.remote(Ask.of(call)) for call in calls]

        def wait() -> list[Residuals]:
            try:
                return [
                    self._residuals(call, response, contexts, end_s)
                    for call, response in zip(calls, asked, strict=True)
                ]
            except TransportFailed:
                for response in asked:
                    response.cancel()
                raise

        return wait

    def _residuals(
        self, call: ControlCall, response: DeploymentResponse, contexts: Contexts, end_s: float
    ) -> Residuals:
        reply = _reply(response, end_s)
        if isinstance(reply, UnknownContexts):
            # Another replica may get this one: it is told everything.
            told = [contexts[context_id] for context_id in dict.fromkeys(row.context_id for row in call.rows)]
            reply = _reply(self._controlnet.residuals.remote(Ask.of(call, told)), end_s)
        return residuals_of(reply, self._placement)


def _reply(response: DeploymentResponse, end_s: float) -> Reply:
    try:
        reply: Reply = response.result(timeout_s=max(end_s - time.monotonic(), 1e-3))
    except _LOST as error:
        response.cancel()
        raise TransportFailed("a ControlNet replica") from error
    return reply


def _socket_file(controlnet: DeploymentHandle, deadline_s: float) -> Path:
    """Of a replica on this node."""
    here = ray.get_runtime_context().get_node_id()
    try:
        answers = controlnet.broadcast("socket_file").results(timeout_s=deadline_s, return_exceptions=True)
    except _LOST as error:
        raise TransportFailed("ControlNet replicas do not answer") from error
    for answer in answers:
        if isinstance(answer, tuple) and answer[0] == here:
            return Path(answer[1])
    raise TransportFailed("no ControlNet replica on this node")
