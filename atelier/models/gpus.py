"""The numbers of a replica's GPU, from NVIDIA's library (NVML) or, where that is missing, from torch.

NVML's memory is that of the whole GPU, with what other replicas and programs use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pynvml
import torch

from atelier.core.status import Gpu

logger = logging.getLogger(__name__)


class GpuReader:
    """Reads the GPU of a torch device."""

    def __init__(self, device: str) -> None:
        """`device` is torch's name of it; on the CPU there is nothing to read."""
        self._device = torch.device(device)
        self._handle: object | None = None
        if self._device.type == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            # NVML counts all GPUs of the machine, torch those that this process sees.
            self._uuid, self._name = f"GPU-{properties.uuid}", properties.name
            self._handle = _handle(self._uuid)

    def read(self) -> Gpu | None:
        """Return the GPU as it is now, or None on the CPU. Raises RuntimeError or NVMLError if it is gone."""
        if self._device.type != "cuda":
            return None
        if self._handle is None:
            free_bytes, total_bytes = torch.cuda.mem_get_info(self._device)
            return self._gpu(total_bytes, total_bytes - free_bytes, free_bytes)
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
        return self._gpu(
            memory.total,
            memory.used,
            memory.free,
            utilization_percent=_supported(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu),
            temperature_c=_supported(
                lambda: pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU)
            ),
        )

    def _gpu(
        self,
        total_bytes: int,
        used_bytes: int,
        free_bytes: int,
        *,
        utilization_percent: int | None = None,
        temperature_c: int | None = None,
    ) -> Gpu:
        return Gpu(
            uuid=self._uuid,
            name=self._name,
            total_bytes=total_bytes,
            used_bytes=used_bytes,
            free_bytes=free_bytes,
            utilization_percent=utilization_percent,
            temperature_c=temperature_c,
        )


def _handle(uuid: str) -> object | None:
    """Return NVML's handle of a GPU, or None if the library is missing or does not know it."""
    try:
        pynvml.nvmlInit()
        handle: object = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError as error:
        logger.warning("NVML does not read %s (%s); its load and temperature stay unknown", uuid, error)
        return None
    return handle


def _supported(read: Callable[[], int]) -> int | None:
    """Return a number, or None if GPUs of this kind do not have it."""
    try:
        return read()
    except pynvml.NVMLError_NotSupported:
        return None
