"""A replica's GPU, with stand-ins for NVIDIA's library and for torch's view of a machine with two GPUs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pynvml
import pytest
import torch

from atelier.core.status import Gpu
from atelier.models.gpus import GpuReader

_GIB = 2**30


def _raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that sees the second of two GPUs, as its first."""
    properties = SimpleNamespace(uuid="1111-bbbb", name="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * _GIB, 80 * _GIB))
    by_uuid = {"GPU-0000-aaaa": 0, "GPU-1111-bbbb": 1}
    stand_ins: dict[str, Callable[..., object]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": by_uuid.__getitem__,
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
            total=81 * _GIB, used=(10 + handle) * _GIB, free=(71 - handle) * _GIB
        ),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=90 + handle, memory=5),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 60 + handle if sensor == 0 else None,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(pynvml, name, stand_in)


@pytest.mark.usefixtures("machine")
def test_the_numbers_are_those_of_the_gpu_that_the_process_sees() -> None:
    assert GpuReader("cuda").read() == Gpu(
        uuid="GPU-1111-bbbb",
        name="NVIDIA H100 80GB HBM3",
        total_bytes=81 * _GIB,
        used_bytes=11 * _GIB,
        free_bytes=70 * _GIB,
        utilization_percent=91,
        temperature_c=61,
    )


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("nvmlInit", pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)),
        ("nvmlDeviceGetHandleByUUID", pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)),
    ],
)
def test_torchs_numbers_are_taken_where_nvidias_library_has_none(
    function: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pynvml, function, _raising(error))
    gpu = GpuReader("cuda").read()
    assert gpu is not None
    assert (gpu.uuid, gpu.total_bytes, gpu.used_bytes, gpu.free_bytes) == (
        "GPU-1111-bbbb",
        80 * _GIB,
        20 * _GIB,
        60 * _GIB,
    )
    assert (gpu.utilization_percent, gpu.temperature_c) == (None, None)
    assert "GPU-1111-bbbb" in caplog.text


@pytest.mark.usefixtures("machine")
def test_a_number_that_a_gpu_does_not_have_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    not_supported = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", _raising(not_supported))
    gpu = GpuReader("cuda").read()
    assert gpu is not None
    assert (gpu.utilization_percent, gpu.temperature_c) == (91, None)


@pytest.mark.usefixtures("machine")
def test_a_gpu_that_is_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = GpuReader("cuda")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", _raising(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)))
    with pytest.raises(pynvml.NVMLError, match="lost"):
        reader.read()


def test_there_is_no_gpu_on_the_cpu() -> None:
    assert GpuReader("cpu").read() is None
