"""A graph under load that Prometheus watches, for the picture of the dashboard.

The graph has two Denoisers. One of them is killed in the middle of the load, so that the panels of losses show what
they are for.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx2
import ray
import yaml
from PIL import Image, ImageDraw
from ray import serve
from ray.serve.schema import ServeDeploySchema

from benchmarks.serving import mixed_requests
from deployments.own_ray import deploy, status
from deployments.progress import failure, is_running
from tests.integration.replicas import kill

_ROOT = Path(__file__).parents[2]
_PORT, _NUM_DENOISERS, _NUM_CLIENTS = 8767, 2, 12
_DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"
_WAIT_S = 120


@contextmanager
def watched_graph() -> Iterator[tuple[str, str]]:
    """Start the graph and a Prometheus; yield their addresses when both answer."""
    with tempfile.TemporaryDirectory(prefix="atelier-") as folder:
        # Ray's folder must have a short name: it holds sockets.
        ray_folder = Path(folder) / "ray"
        ray.init(address="local", namespace="serve", log_to_driver=False, _temp_dir=str(ray_folder))
        try:
            _deploy()
            with _prometheus(Path(folder), ray_folder / Path(_DISCOVERY).name) as prometheus:
                yield f"http://127.0.0.1:{_PORT}", prometheus
        finally:
            serve.shutdown()
            ray.shutdown()


async def load(address: str, *, seconds: float) -> None:
    """Let clients send mixed requests, and kill a Denoiser after half of the time."""
    end_s = time.monotonic() + seconds
    requests = _requests()

    async def work(client: httpx2.AsyncClient) -> None:
        while time.monotonic() < end_s:
            path, body = await anext(requests)
            await client.post(f"/v1/images/{path}", json=body)

    async with httpx2.AsyncClient(base_url=address, timeout=_WAIT_S) as client, asyncio.TaskGroup() as clients:
        for _ in range(_NUM_CLIENTS):
            clients.create_task(work(client))
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(kill, "Denoiser")


async def _requests() -> AsyncIterator[tuple[str, dict[str, object]]]:
    """Yield paths and bodies: mostly generations of several kinds, and a few mistakes."""
    image = _image()
    for index in count():
        if index % 12 == 11:
            yield "upscale", {"image": image, "scale": 4}
            continue
        body: dict[str, object] = {**mixed_requests(64)[index % 64], "seed": index}
        if index % 5 == 0:
            body["reproducibility"] = "exact"
        if index % 6 == 1:
            body |= {"init_image": image, "strength": 0.6}
        if index % 7 == 0:
            body["controls"] = [{"kind": "canny", "image": image}]
        if index % 20 == 9:
            body["guidance_scale"] = -1
        yield "generations", body


def _image() -> str:
    """Return an input image, a red disc on white, in base64."""
    image, file = Image.new("RGB", (128, 128), "white"), io.BytesIO()
    ImageDraw.Draw(image).ellipse((32, 32, 96, 96), fill="red")
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _deploy() -> None:
    """Deploy serve_config.yaml with more Denoisers, of one thread each; returns when all deployments run."""
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = _PORT
    [application] = config["applications"]
    application["args"]["denoiser"]["num_threads"] = 1
    for options in application["deployments"]:
        if options["name"] == "Denoiser":
            options["num_replicas"] = _NUM_DENOISERS
    deploy(ServeDeploySchema.model_validate(config))
    start_s = time.monotonic()
    while not is_running(now := status()):
        if (reason := failure(now)) or time.monotonic() - start_s > _WAIT_S:
            raise RuntimeError(reason or f"the graph does not run after {_WAIT_S} s")
        time.sleep(1)


@contextmanager
def _prometheus(folder: Path, discovery: Path) -> Iterator[str]:
    """Run a Prometheus with the config in deploy/prometheus on a free port; yield its address."""
    program = shutil.which("prometheus")
    if program is None:
        raise RuntimeError("prometheus is not installed (Debian: apt-get install prometheus)")
    for file in (_ROOT / "deploy" / "prometheus").glob("*.yml"):
        (folder / file.name).write_text(file.read_text().replace(_DISCOVERY, str(discovery)))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={listen}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for_targets(f"http://{listen}")
            yield f"http://{listen}"
        finally:
            process.terminate()
            process.wait(_WAIT_S)


def _wait_for_targets(address: str) -> None:
    """Wait until Prometheus has read every target that Ray has listed, at least the node and the dashboard."""
    start_s = time.monotonic()
    while time.monotonic() - start_s < _WAIT_S:
        time.sleep(1)
        try:
            answer = httpx2.get(f"{address}/api/v1/targets")
        except httpx2.ConnectError:
            continue
        targets = json.loads(answer.text)["data"]["activeTargets"]
        if targets and all(target["health"] == "up" for target in targets):
            return
    raise RuntimeError(f"Prometheus has not read Ray's exporters after {_WAIT_S} s")
