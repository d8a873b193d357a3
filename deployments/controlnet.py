"""ControlNet: draws control maps, and serves residuals to Denoisers that reach for them from another process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from atelier.catalogue.catalogue import Catalogue
from atelier.core.control import Annotation, ControlImage
from atelier.core.errors import NotSupported
from atelier.core.origin import Origin
from atelier.pipeline.stages import Annotated
from deployments.options import ControlNetOptions

if TYPE_CHECKING:
    from atelier.control.wire import Ask, Reply


class ControlNet:
    def __init__(self, catalogue: Catalogue, options: ControlNetOptions, *, has_residuals: bool) -> None:
        """Without `has_residuals` the ControlNets' weights are the Denoisers' affair."""
        from atelier.control.annotators import Annotators
        from atelier.control.batching import ResidualBatcher
        from atelier.control.controlnets import load_controlnets
        from atelier.control.same_node import SameNodeServer
        from atelier.models.hashes import place_hash
        from atelier.models.thread import ModelThread
        from deployments.accelerator import placement

        self._place = place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("controlnet", num_threads=options.num_threads)
        self._annotators = self._thread.run(lambda: Annotators(catalogue.annotators, place))
        self._place_hash = place_hash(place, num_threads=options.num_threads, width=1)
        self._batcher = self._server = None
        if has_residuals:
            controlnets = self._thread.run(lambda: load_controlnets(catalogue, place))
            self._batcher = ResidualBatcher(controlnets, self._thread)
            self._server = SameNodeServer(self._batcher, place)

    async def annotate(self, annotation: Annotation, picture: ControlImage) -> Annotated:
        drawn = await self._thread.run_async(lambda: self._annotators.annotate(annotation, picture))
        return Annotated(drawn, Origin(self._place_hash, self._annotators.weights(annotation.kind)))

    async def residuals(self, ask: Ask) -> Reply:
        """What a step's rows get, batched with what other Denoisers ask for."""
        from atelier.control.wire import reply_to

        if self._batcher is None:
            raise NotSupported("This graph's Denoisers have their ControlNets in process.")
        answer = self._batcher.submit(ask.call_on(self._place), ask.contexts)
        return await asyncio.to_thread(reply_to, answer)

    async def socket_file(self) -> tuple[str, Path] | None:
        """This replica's node and its socket there, if it serves residuals."""
        node_id: str = ray.get_runtime_context().get_node_id()
        return None if self._server is None else (node_id, self._server.socket_file)

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
