"""The runners of a Denoiser, one per model; each is made when its model is needed first.

A runner is made in a thread of its own kind, so that the step loop goes on meanwhile. What is left for the step loop
is to bring the weights to the device, whenever other models have taken their place.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.loras import LoraLibrary
from atelier.control.transports import InOrder, Transport
from atelier.core.denoising import DenoiseRequest
from atelier.core.errors import ModelUnavailable
from atelier.engine.request import Emit, Submitted, plain_cost
from atelier.engine.runner import HostedUNet, Runner, StepCosts
from atelier.engine.side_by_side import SideBySide
from atelier.families.family import LoadedAdapters, Part, family_of
from atelier.models.host import HostStatus, ModelHost
from atelier.models.loading import Placement, unet_without_weights
from atelier.models.sources import unet_source, unet_tensors
from atelier.models.streaming import StreamedModule

_NO_CONTROLNETS = InOrder({})
_NO_LORAS = LoraLibrary()


class Runners:
    """The runners of a replica's models. `runner` and `warm_up` are called in the engine's thread only."""

    def __init__(
        self,
        find: Callable[[str], ModelEntry],
        placement: Placement,
        host: ModelHost,
        transport: Transport,
        find_lora: Callable[[str], Path],
    ) -> None:
        """`find` returns a model's entry by its id, or raises ModelNotFound.

        All UNets belong to `host`; `transport` carries the calls to ControlNets; `find_lora` returns the file of a
        LoRA by its id. Calls are split for as many threads as this one's OpenMP uses.
        """
        self._find = find
        self._placement = placement
        self._host = host
        self._transport = transport
        num_threads = torch.get_num_threads()
        can_split = placement.device == "cpu" and num_threads > 1
        self._side_by_side = SideBySide(num_threads) if can_split else None
        self._adapters = LoadedAdapters(find_lora, self._modules, placement)
        self._making = ThreadPoolExecutor(1, "runners", initializer=torch.set_num_threads, initargs=(1,))
        self._lock = threading.Lock()
        self._made: dict[str, Future[Runner]] = {}
        #: By the UNet's architecture.
        self._costs: dict[str, StepCosts] = {}
        self._measured: list[Runner] = []

    def submitted(self, request: DenoiseRequest, emit: Emit, now_s: float = 0.0) -> Submitted:
        """Return a request as it waits, with its model and LoRAs, which are loaded from now on. Called in any thread.

        Raises ModelNotFound if there is no such model.
        """
        model = request.pass_.model
        entry, runner = self._find(model), self.prepare(model)
        adapters = tuple(self._adapters.get(model, lora.id) for lora in request.pass_.loras)
        return Submitted(request, emit, now_s, adapters, plain_cost(request, entry.defaults.size), runner)

    def prepare(self, model: str) -> Future[Runner]:
        """Return the future of a model's runner, which is made from now on. Called in any thread.

        Raises ModelNotFound if there is no such model; the future raises ModelUnavailable if it cannot be loaded.
        """
        with self._lock:
            made = self._made.get(model)
            if made is None or (made.done() and made.exception() is not None):
                entry = self._find(model)
                made = self._made[model] = self._making.submit(self._make, entry)
            return made

    def bring(self, model: str) -> Future[None]:
        """Return a future of a model's UNet on the device. Called in any thread. Raises what `prepare` raises."""
        made = self.prepare(model)
        return self._making.submit(lambda: made.result().bring())

    def unload(self, model: str) -> bool:
        """Take a model's UNet out of memory; return whether it is still there, because it is used."""
        runner = self._runner_that_is_made(model)
        return runner is not None and runner.unload()

    def runner(self, model: str) -> Runner:
        """Return a model's runner, ready to take steps; an unknown architecture is measured first.

        Raises ModelUnavailable if the model cannot be loaded.
        """
        runner = self.prepare(model).result()
        if runner.costs is None:
            runner.make_graphs()
            known = self._costs.get(runner.architecture)
            runner.costs = self._costs[runner.architecture] = runner.warm_up() if known is None else known
            self._measured.append(runner)
        return runner

    @property
    def max_rows(self) -> float:
        """Number of rows, of its model's default size, that memory has room for beside any UNet that was measured."""
        return min((self._max_rows(runner) for runner in self._measured), default=math.inf)

    def _max_rows(self, runner: Runner) -> float:
        row_bytes = runner.row_bytes
        return (self._placement.memory.device_bytes - runner.num_bytes) / row_bytes if row_bytes else math.inf

    def fit(self, models: Set[str], max_rows: float) -> bool:
        """Return whether memory has room for models at once, with the activations of as many rows as may run.

        An exclusive model fits beside no other.
        """
        runners = [runner for model in models if (runner := self._runner_that_is_made(model)) is not None]
        if len(models) > 1 and any(runner.is_exclusive for runner in runners):
            return False
        row_bytes = max((runner.row_bytes for runner in self._measured), default=0.0)
        rows_bytes = row_bytes * min(max_rows, self.max_rows) if row_bytes else 0.0
        return sum(runner.num_bytes for runner in runners) + rows_bytes <= self._placement.memory.device_bytes

    def bring_s(self, model: str) -> float:
        """Return how long it takes until a model's weights are on the device; 0 if they are there."""
        runner = self._runner_that_is_made(model)
        return 0.0 if runner is None else runner.bring_s

    @property
    def weights(self) -> dict[str, str]:
        """Hashes of the weights of all UNets that were loaded, and of the ControlNets in this process, by name."""
        hashes = dict(self._transport.weights)
        for model, made in list(self._made.items()):
            if made.done() and made.exception() is None:
                hashes[_unet_name(model)] = made.result().weights_hash
        return hashes

    def memory(self) -> HostStatus:
        """Return which UNets and ControlNets are in memory. Called in any thread."""
        return self._host.status()

    def resident_loras(self) -> list[str]:
        """Return the ids of the LoRAs on the device, of all models. Called in any thread."""
        return self._adapters.resident()

    def _runner_that_is_made(self, model: str) -> Runner | None:
        made = self._made.get(model)
        return made.result() if made is not None and made.done() and made.exception() is None else None

    def _make(self, entry: ModelEntry) -> Runner:
        return Runner(entry, self._placement, self._unet(entry), self._transport, self._side_by_side)

    def _unet(self, entry: ModelEntry) -> HostedUNet:
        host, name, placement = self._host, _unet_name(entry.id), self._placement
        if not placement.memory.is_streamed:
            return host.add(name, unet_source(entry, placement))
        unet = unet_without_weights(entry)
        blocks = family_of(entry.family).block_names(unet)
        try:
            return StreamedModule(host, name, unet, blocks, unet_tensors(entry), placement)
        except ValueError as error:
            raise ModelUnavailable(f"Model {entry.id!r}: {error}.") from error

    def _modules(self, model: str) -> Mapping[Part, torch.nn.Module]:
        """Return the module that LoRAs of a model change; its weights need not be there."""
        return {"unet": self.prepare(model).result().module}


def _unet_name(model: str) -> str:
    return f"{model}/unet"


def load_runners(
    entries: Sequence[ModelEntry],
    placement: Placement,
    transport: Transport = _NO_CONTROLNETS,
    *,
    find: Callable[[str], ModelEntry] | None = None,
    host: ModelHost | None = None,
    find_lora: Callable[[str], Path] = _NO_LORAS.file,
) -> Runners:
    """Load and warm up the models that are to be preloaded, in the engine's thread.

    `find` returns the entry of any model; by default there are those of `entries` only. `host` is that of the
    ControlNets in this process, if there are any. Raises ModelUnavailable if a model cannot be loaded or run.
    """
    find = find or Catalogue(models=tuple(entries)).model
    runners = Runners(find, placement, host or ModelHost(placement), transport, find_lora)
    for entry in entries:
        if entry.preload:
            runners.runner(entry.id)
    return runners
