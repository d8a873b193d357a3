"""The state of a graph: its deployments, the GPUs that they run on, and the models that they hold.

A number that nobody could tell is None. Nothing here asks for numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

ServiceState = Literal["running", "starting", "unhealthy", "scaled_to_zero"]
#: What the graph's models run on; "unknown" if no GPU is known and a replica has not said where it runs.
Backend = Literal["cuda", "none", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, and its numbers at one moment."""

    #: As `nvidia-smi -L` prints it.
    uuid: str
    name: str
    total_bytes: int
    used_bytes: int | None
    free_bytes: int | None
    utilization_percent: int | None
    temperature_c: int | None

    def without_numbers(self) -> Gpu:
        """Return the GPU as it is known when nobody can read its numbers."""
        return replace(self, used_bytes=None, free_bytes=None, utilization_percent=None, temperature_c=None)


@dataclass(frozen=True, slots=True)
class Holders:
    """How many replicas have a model in memory; a text encoder, a UNet and a VAE are in replicas of three kinds."""

    num_holders: int
    num_replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device that a replica runs on, and the models that it holds."""

    #: Id of the replica.
    replica: str
    #: Id of its node.
    node: str
    #: None on the CPU.
    gpu: Gpu | None
    #: Ids of the base models of which it has a part in memory.
    models: tuple[str, ...]

    def without_numbers(self) -> Device:
        """Return the device as it is known when the replica is silent."""
        return replace(self, gpu=None if self.gpu is None else self.gpu.without_numbers())


@dataclass(frozen=True, slots=True)
class UsedGpu:
    """A GPU, and the deployments that run on it."""

    gpu: Gpu
    node: str
    #: Names in alphabetical order.
    deployments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A deployment."""

    name: str
    status: ServiceState
    num_running: int
    num_wanted: int
    #: Number of running replicas that did not say their device in time.
    num_silent: int = 0
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStatus:
    """The state of all deployments of a graph."""

    #: Empty if nothing is known of the graph.
    services: tuple[Service, ...]
    gpus: tuple[UsedGpu, ...]
    #: Ids of the base models that any replica has in memory, in alphabetical order.
    models: tuple[str, ...]
    #: Whether the device of every running replica is known.
    is_complete: bool

    @property
    def backend(self) -> Backend:
        if self.gpus:
            return "cuda"
        return "none" if self.is_complete else "unknown"

    @property
    def is_ok(self) -> bool:
        """Whether every deployment runs or is scaled to zero."""
        return bool(self.services) and all(one.status in ("running", "scaled_to_zero") for one in self.services)


def used_gpus(devices: Iterable[tuple[str, Device]]) -> tuple[UsedGpu, ...]:
    """Return each GPU of some replicas once; `devices` are the replicas' deployments and devices."""
    users: defaultdict[str, list[tuple[str, str, Gpu]]] = defaultdict(list)
    for deployment, device in devices:
        if device.gpu is not None:
            users[device.gpu.uuid].append((deployment, device.node, device.gpu))
    return tuple(_joined(of_one) for _, of_one in sorted(users.items()))


def _joined(users: list[tuple[str, str, Gpu]]) -> UsedGpu:
    """Return a GPU with the numbers that any of its replicas could read."""
    _, node, gpu = next((one for one in users if one[2].used_bytes is not None), users[0])
    return UsedGpu(gpu, node, tuple(sorted({name for name, *_ in users})))
