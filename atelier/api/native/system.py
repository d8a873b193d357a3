"""Our own routes for those who watch the server: GPUs, deployments, and the system as a whole.

Dashboards ask every second. The answers are shared by all who ask, up to two seconds old, and never wake a deployment
that is scaled to zero. A part that is unknown does not fail the rest.
"""

from __future__ import annotations

import asyncio
import platform
from dataclasses import asdict
from typing import Literal

from fastapi import APIRouter

from atelier.api.host import installed
from atelier.api.native.system_schemas import (
    Cpu,
    GpuReport,
    GpuStatus,
    Memory,
    NumJobs,
    ServicesReport,
    ServiceStatus,
    SystemInfo,
    Vram,
)
from atelier.api.services import UsedHost, UsedJobCounts, UsedPipeline
from atelier.core.status import GraphStatus, UsedGpu
from atelier.jobs.counts import JobCounts

router = APIRouter(tags=["Atelier"])


@router.get("/gpu/status")
async def gpu_status(pipeline: UsedPipeline) -> GpuReport:
    """Return every GPU that the graph's replicas use, on any node."""
    return _gpu_report(await pipeline.stages.status())


@router.get("/api/services/status")
async def services_status(pipeline: UsedPipeline) -> ServicesReport:
    """Return the state of every deployment, and of its GPUs."""
    status = await pipeline.stages.status()
    return ServicesReport(
        status="ok" if status.is_ok else "degraded",
        services=[ServiceStatus.model_validate(one) for one in status.services],
        gpu=_gpu_report(status) if status.backend == "cuda" else status.backend,
    )


@router.get("/api/system/info")
async def system_info(pipeline: UsedPipeline, host: UsedHost, job_counts: UsedJobCounts) -> SystemInfo:
    """Return versions, memory, loaded models and the number of jobs."""
    status, jobs = await asyncio.gather(pipeline.stages.status(), _num_jobs(job_counts))
    machine = host.machine()
    return SystemInfo(
        version=installed("atelier"),
        python=platform.python_version(),
        torch=installed("torch"),
        ray=installed("ray"),
        uptime_s=host.uptime_s,
        cpu=Cpu(num_cpus=machine.num_cpus, utilization_percent=machine.cpu_percent),
        memory=Memory(total_bytes=machine.memory_total_bytes, used_bytes=machine.memory_used_bytes),
        vram=_vram(status),
        loaded_models=list(status.models),
        jobs=jobs,
    )


def _gpu_report(status: GraphStatus) -> GpuReport:
    return GpuReport(backend=status.backend, gpus=[_gpu_status(one) for one in status.gpus])


def _gpu_status(used: UsedGpu) -> GpuStatus:
    return GpuStatus.model_validate(asdict(used.gpu) | {"node": used.node, "deployments": used.deployments})


def _vram(status: GraphStatus) -> Vram | Literal["none", "unknown"]:
    if status.backend != "cuda":
        return status.backend
    gpus = [one.gpu for one in status.gpus]
    used = [gpu.used_bytes for gpu in gpus if gpu.used_bytes is not None]
    return Vram(
        total_bytes=sum(gpu.total_bytes for gpu in gpus), used_bytes=sum(used) if len(used) == len(gpus) else None
    )


async def _num_jobs(job_counts: JobCounts | None) -> NumJobs | Literal["unknown"] | None:
    if job_counts is None:
        return None
    counts = await job_counts.by_state()
    return "unknown" if counts is None else NumJobs.model_validate(counts)
