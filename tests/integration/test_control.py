"""Every transport gives the same image, even if the ControlNet replica dies or freezes while the image is made."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image, ImageDraw
from ray import serve

from atelier.core.control import TransportName
from graph import build_app
from tests.integration.steps import Steps

_DEADLINE_S = 1.0
_NUM_STEPS = 60


def _ring() -> str:
    """The outline of a ring on the right, as a PNG in base64."""
    edges = Image.new("RGB", (128, 128))
    ImageDraw.Draw(edges).circle((92, 64), 26, outline="white")
    ImageDraw.Draw(edges).circle((92, 64), 14, outline="white")
    file = io.BytesIO()
    edges.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


_REQUEST = {
    "prompt": "a blue shape, white background",
    "seed": 4,
    "num_inference_steps": _NUM_STEPS,
    "controls": [{"kind": "canny", "image": _ring()}],
}


#: The transports to ControlNets in replicas of their own.
_DEPLOYED = ["same_node", pytest.param("handle", marks=pytest.mark.long)]


@pytest.fixture(scope="module", params=["in_process", *_DEPLOYED])
def graph(request: pytest.FixtureRequest, address: str) -> Iterator[tuple[TransportName, str]]:
    """The transport that a graph's Denoiser tries first, and the address of the graph."""
    name: TransportName = request.param
    if name == "in_process":
        yield name, address
        return
    denoiser = {"control_transports": [name, "in_process"], "control_deadline_s": _DEADLINE_S}
    no_cache = {name: {"max_cache_bytes": 0} for name in ("Router", "Worker")}
    serve.run(build_app({"denoiser": denoiser}, user_configs=no_cache), name=name, route_prefix=f"/{name}")
    yield name, f"{address}/{name}"
    serve.delete(name)


@pytest.fixture(scope="module")
def expected(address: str) -> str:
    return asyncio.run(_image(address))


async def _image(address: str) -> str:
    async with httpx2.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{address}/v1/images/generations", json=_REQUEST)
        assert answer.status_code == 200, answer.text
        image: str = answer.json()["data"][0]["b64_json"]
    return image


async def _image_with_signal(address: str, pid: int, signal_: signal.Signals) -> str:
    """Send the signal to the process after a third of a request's steps; return the request's image."""
    steps = Steps(address)
    before = await steps.done()
    image = asyncio.create_task(_image(address))
    await steps.wait_for(before + _NUM_STEPS // 3)
    os.kill(pid, signal_)
    assert await steps.done() - before < _NUM_STEPS
    return await image


def _replicas(app: str, deployment: str) -> list[int]:
    """Process ids of a deployment's replicas; Ray puts their names into the process titles."""
    title = f"ray::ServeReplica:{app}:{deployment}".encode()
    return [int(entry.name) for entry in Path("/proc").iterdir() if _title(entry).startswith(title)]


async def _controlnet(app: str) -> int:
    """The process of the only ControlNet replica, when the one before it has been replaced."""
    async with asyncio.timeout(60):
        while True:
            pids = _replicas(app, "ControlNet")
            if len(pids) == 1 and serve.status().applications[app].status == "RUNNING":
                return pids[0]
            await asyncio.sleep(0.2)


def _title(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes() if process.name.isdigit() else b""
    except OSError:
        return b""


async def _failures(address: str) -> float:
    async with httpx2.AsyncClient(timeout=20) as client:
        text = (await client.get(f"{address}/metrics")).text
    lines = [line for line in text.splitlines() if "_control_" in line and "_failures_total{" in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.slow
async def test_every_transport_gives_the_same_bits(graph: tuple[TransportName, str], expected: str) -> None:
    _, address = graph
    assert await _image(address) == expected
    assert await _failures(address) == 0


@pytest.mark.slow
@pytest.mark.parametrize("graph", _DEPLOYED, indirect=True, scope="module")
@pytest.mark.parametrize("signal_", [signal.SIGSTOP, signal.SIGKILL], ids=["frozen", "killed"])
async def test_a_lost_controlnet_does_not_change_the_image(
    graph: tuple[TransportName, str], expected: str, signal_: signal.Signals
) -> None:
    name, address = graph
    # A transport that failed in the previous test is skipped for 5 s.
    await asyncio.sleep(6)
    failures = await _failures(address)
    pid = await _controlnet(name)
    try:
        assert await _image_with_signal(address, pid, signal_) == expected
    finally:
        if signal_ == signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
    assert await _failures(address) > failures


@pytest.mark.slow
async def test_a_graph_of_any_name_and_prefix_says_where_its_files_are(graph: tuple[TransportName, str]) -> None:
    name, address = graph
    asked = {"prompt": "a red circle", "seed": 3, "num_inference_steps": 2, "response_format": "url"}
    handle = serve.get_app_handle("atelier" if name == "in_process" else name)
    [image] = (await handle.generate.remote(asked))["images"]
    async with httpx2.AsyncClient(timeout=60) as client:
        answer = (await client.post(f"{address}/v1/images/generations", json=asked)).json()
        assert answer["data"][0]["url"] == f"{address}{image['url']}"
        assert (await client.get(answer["data"][0]["url"])).headers["content-type"] == "image/png"
