"""What a running graph says of its deployments and of the system, also while a replica hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.integration.replicas import STAGES, freeze, until_replaced

_SERVICES, _SYSTEM, _GPUS = "/api/services/status", "/api/system/info", "/gpu/status"
_WAIT_S = 30
#: A second for the controller, and one for the replicas; the rest is for a busy machine.
_ANSWERED_WITHIN_S = 4.0


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=address, timeout=_WAIT_S) as client:
        yield client


async def _services(http: httpx2.AsyncClient) -> dict[str, dict[str, Any]]:
    answer = (await http.get(_SERVICES)).raise_for_status()
    return {service["name"]: service for service in answer.json()["services"]}


async def _until_heard(http: httpx2.AsyncClient) -> None:
    """Wait until every replica has answered: the first answers of a graph that has just started may come late."""
    async with asyncio.timeout(_WAIT_S):
        while any(one["num_silent"] or one["status"] != "running" for one in (await _services(http)).values()):
            await asyncio.sleep(0.5)


async def test_every_deployment_and_the_models_of_its_replicas_are_told(http: httpx2.AsyncClient) -> None:
    await _until_heard(http)
    services = await _services(http)
    assert services.keys() == {"Router", "Worker", *STAGES}
    assert {(one["num_running"], one["num_wanted"]) for one in services.values()} == {(1, 1)}
    assert (await http.get(_GPUS)).json() == {"backend": "none", "gpus": []}
    system = (await http.get(_SYSTEM)).json()
    assert system["loaded_models"] == ["tiny-sdxl"]
    assert system["jobs"].keys() == {"queued", "running", "succeeded", "failed", "cancelled"}
    assert (system["vram"], system["ray"]) == ("none", "2.60.0")


@pytest.mark.slow
@pytest.mark.long
async def test_a_frozen_denoiser_is_silent_and_holds_up_no_answer(http: httpx2.AsyncClient) -> None:
    await _until_heard(http)
    frozen = freeze("Denoiser")
    slowest_s, is_silent = 0.0, False
    while not is_silent:
        start_s = time.monotonic()
        services = await _services(http)
        slowest_s = max(slowest_s, time.monotonic() - start_s)
        assert [name for name, one in services.items() if one["num_silent"]] in ([], ["Denoiser"])
        assert services["Denoiser"]["num_running"], "it was replaced before its silence was seen"
        is_silent = services["Denoiser"]["num_silent"] == 1
        await asyncio.sleep(0.2)
    assert slowest_s < _ANSWERED_WITHIN_S
    assert (await http.get(_SYSTEM)).json()["loaded_models"] == ["tiny-sdxl"]
    await until_replaced(frozen, "Denoiser")
    await _until_heard(http)
