"""ControlNet: residuals for Denoisers in other processes, over a socket on the same node or a Serve handle."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from atelier.catalogue.catalogue import Catalogue
from deployments.options import ControlNetOptions
from deployments.replica import Replica

if TYPE_CHECKING:
    from atelier.control.codec import Encoded
    from atelier.control.messages import ResidualsRequest, ResidualsResponse


class ControlNet(Replica):
    """The deployment that computes residuals for Denoisers.

    It is part of the graph only if `denoiser.control_transports` has a remote transport.
    """

    def __init__(self, catalogue: Catalogue, options: ControlNetOptions) -> None:
        """Load the ControlNets. Raises ModelUnavailable if a model's files are missing or corrupt."""
        from atelier.control.batching import ResidualBatcher
        from atelier.control.controlnets import load_controlnets
        from atelier.control.same_node import SameNodeServer

        super().__init__("controlnet", options)
        thread, placement = self._runtime.thread, self._runtime.placement
        controlnets = thread.run(lambda: load_controlnets(catalogue, placement))
        self._batcher = ResidualBatcher(controlnets, thread)
        self._server = SameNodeServer(self._batcher, placement)

    async def residuals(self, request: Encoded[ResidualsRequest]) -> Encoded[ResidualsResponse]:
        """Compute one ControlNet's residuals for the rows of a step, batched with the calls of other Denoisers."""
        from atelier.control.codec import decode, encode
        from atelier.control.messages import response_of

        decoded = decode(request, self._runtime.placement)
        answer = self._batcher.submit(decoded.call, decoded.contexts)
        return encode(await asyncio.to_thread(response_of, answer))

    async def socket_file(self) -> tuple[str, Path]:
        """Return the id of this replica's node and the path of its socket."""
        node_id: str = ray.get_runtime_context().get_node_id()
        return node_id, self._server.socket_file
