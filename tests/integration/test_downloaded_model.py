"""A model from the hub draws what its origin draws, whatever broke while it came and was loaded."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.integration.conftest import Graph
from tests.integration.replicas import Replica, replicas_of, until_replaced
from tests.pictures import pixels_of

_MODEL = "me/copy"
_UNET = "unet/diffusion_pytorch_model.safetensors"
_WAIT_S = 60


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=120) as client:
        yield client


async def _download(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/hub/download", json={"repository": _MODEL, "accept_licence": "mit"})
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(_WAIT_S):
        while (job := (await http.get(answer.json()["status_url"])).json())["state"] not in ("succeeded", "failed"):
            await asyncio.sleep(0.1)
    assert job["state"] == "succeeded", job


async def _drawn(http: httpx2.AsyncClient, model: str) -> bytes:
    body = {
        "prompt": "a red circle, white background",
        "model": model,
        "seed": 5,
        "size": "256x256",
        "num_inference_steps": 6,
        "reproducibility": "exact",
    }
    answer = await http.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    data: bytes = answer.json()["data"][0]["b64_json"]
    return data


async def _kill_while_it_loads(http: httpx2.AsyncClient) -> Replica:
    """Kill the Denoiser as soon as it has opened the model's files; it loads the model until that was seen."""
    [denoiser] = replicas_of("Denoiser")
    for _ in range(20):
        loading = asyncio.create_task(http.post(f"/v1/models/{_MODEL}/load"))
        is_killed = await asyncio.to_thread(_kill_when_files_are_open, denoiser.pid, loading)
        await loading
        if is_killed:
            return denoiser
        await http.post(f"/v1/models/{_MODEL}/unload")
    raise AssertionError("the model was always loaded before that was seen")


def _kill_when_files_are_open(pid: int, loading: asyncio.Task[httpx2.Response]) -> bool:
    maps = Path(f"/proc/{pid}/maps")
    while not loading.done():
        if "models--me--copy" in maps.read_text():
            os.kill(pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.slow
async def test_a_model_whose_download_and_load_were_cut_draws_what_its_origin_draws(
    deployed: Graph, http: httpx2.AsyncClient
) -> None:
    deployed.model_hub.faults.cuts_after = [2_000_000]
    await _download(http)
    assert deployed.model_hub.sent.count(_UNET) == 2, "the connection did not break"
    lost = await _kill_while_it_loads(http)
    await until_replaced(lost, "Denoiser")
    ours, theirs = await _drawn(http, _MODEL), await _drawn(http, "tiny-sdxl")
    assert np.array_equal(pixels_of(ours), pixels_of(theirs))
    # A model that is removed stays in memory until others need its place.
    (await http.post(f"/v1/models/{_MODEL}/unload")).raise_for_status()
    (await http.delete(f"/v1/hub/installed/{_MODEL}")).raise_for_status()
