"""Answers of our own routes about the system. What nobody could tell is null or `unknown`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from atelier.core.status import Backend, ServiceState

Bytes = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class GpuStatus(BaseModel):
    """A GPU that replicas run on. Its numbers are null if none of them could tell them in time."""

    uuid: str = Field(description="As `nvidia-smi -L` prints it.")
    name: str
    node: str = Field(description="Ray's id of its node.")
    total_bytes: Bytes
    used_bytes: Bytes | None = Field(description="Memory in use by all programs.")
    free_bytes: Bytes | None
    utilization_percent: Percent | None = Field(description="Null without NVIDIA's library, too.")
    temperature_c: int | None = Field(description="Null without NVIDIA's library, too.")
    deployments: list[str] = Field(description="Deployments that run on it.")


class GpuReport(BaseModel):
    """The GPUs of all replicas but those of ControlNet, each once."""

    backend: Backend = Field(description="`unknown` if no GPU is known and a replica has not said where it runs.")
    gpus: list[GpuStatus]


class ServiceStatus(BaseModel):
    """A deployment."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    status: ServiceState
    num_running: int = Field(description="Number of replicas that run.")
    num_wanted: int = Field(description="Number of replicas that it should have now.")
    num_silent: int = Field(
        description="Number of running replicas that did not say their device within a second; they may be busy."
    )
    message: str | None = Field(description="What Serve says of it, if there is something to say.")


class ServicesReport(BaseModel):
    """All deployments, and their GPUs."""

    status: Literal["ok", "degraded"] = Field(description="`ok` if every deployment runs or is scaled to zero.")
    services: list[ServiceStatus]
    gpu: GpuReport | Literal["none", "unknown"]


class Cpu(BaseModel):
    """The CPUs of a machine."""

    num_cpus: int | None
    utilization_percent: Percent


class Memory(BaseModel):
    """A machine's memory."""

    total_bytes: Bytes
    used_bytes: Bytes


class Vram(BaseModel):
    """The memory of all GPUs together."""

    total_bytes: Bytes
    used_bytes: Bytes | None = Field(description="Null if that of one GPU is unknown.")


class NumJobs(BaseModel):
    """The number of jobs in each state."""

    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class SystemInfo(BaseModel):
    """Versions, memory, models and jobs of this server."""

    version: str | None
    python: str
    torch: str | None
    ray: str | None
    uptime_s: float = Field(ge=0, description="Seconds since this Router started.")
    cpu: Cpu = Field(description="CPUs of the Router's node.")
    memory: Memory = Field(description="Memory of the Router's node.")
    vram: Vram | Literal["none", "unknown"]
    loaded_models: list[str] = Field(description="Ids of the models that replicas hold.")
    jobs: NumJobs | Literal["unknown"] | None = Field(
        description="Null if this server takes no jobs; `unknown` if their database does not answer."
    )
