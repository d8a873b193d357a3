"""One request in the logs of all processes that work on it, on one node and on two."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
import yaml

from tests.integration.conftest import free_port
from tests.integration.two_nodes import two_nodes
from tests.pictures import encoded, noise

_ROOT = Path(__file__).parents[2]
_DEPLOYMENTS = {"Router", "TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler"}
_SECRET = "a secret circle"
_WAIT_S = 120


def _request(request_id: str) -> dict[str, Any]:
    """A request that uses every stage; equal ones in progress would share one generation."""
    image = base64.b64encode(encoded(noise(64, 64))).decode()
    body = {
        "prompt": _SECRET,
        "seed": 1,
        "size": "64x64",
        "num_inference_steps": 2,
        "init_image": image,
        "controls": [{"kind": "canny", "image": image, "annotate": True}],
        "upscale": {"scale": 2},
    }
    return {"json": body, "headers": {"x-request-id": request_id}}


def _lines(folder: Path, request_id: str) -> Iterator[dict[str, Any]]:
    """The lines of JSON logs that have the request's id, or that of one of its passes in the engine."""
    for file in folder.rglob("*.log"):
        for line in file.read_text().splitlines():
            if line.startswith("{") and str((fields := json.loads(line)).get("request_id", "")).startswith(
                request_id
            ):
                yield fields


def _seen(lines: list[dict[str, Any]]) -> set[str]:
    """The deployments in the lines, and "proxy"."""
    return {line["deployment"].removeprefix("atelier_") if "deployment" in line else "proxy" for line in lines}


def _logs_of_this_cluster() -> Path:
    return Path(ray._private.worker._global_node.get_logs_dir_path()) / "serve"


def _until_seen(folder: Path, request_id: str, expected: set[str]) -> list[dict[str, Any]]:
    """The request's lines, as soon as all of these have written one."""
    deadline_s = time.monotonic() + _WAIT_S
    while not (lines := list(_lines(folder, request_id))) or not _seen(lines) >= expected:
        assert time.monotonic() < deadline_s, _seen(lines)
        time.sleep(0.1)
    return lines


@pytest.mark.slow
def test_a_request_is_followed_by_its_id_through_every_deployment(address: str) -> None:
    """The answer comes from a generation that starts in a context of its own, because it could be shared."""
    with httpx2.Client(base_url=address, timeout=_WAIT_S) as client:
        answer = client.post("/v1/images/generations", **_request("req_followed"))
        rejected = client.post("/v1/images/generations", json={"prompt": _SECRET, "n": 0})
    assert (answer.status_code, rejected.status_code) == (200, 400)
    lines = _until_seen(_logs_of_this_cluster(), "req_followed", _DEPLOYMENTS | {"proxy"})
    [ours] = [line for line in lines if line.get("endpoint")]
    assert (ours["levelname"], ours["status"], ours["model"], ours["size"]) == ("INFO", 200, "tiny-sdxl", "128x128")
    stages = ("encode_texts", "encode_latents", "annotate", "queue", "denoise", "decode_latents", "upscale")
    assert all(ours[f"{stage}_s"] >= 0 for stage in stages)
    lines = _until_seen(_logs_of_this_cluster(), rejected.headers["x-request-id"], {"Router"})
    [ours] = [line for line in lines if line.get("endpoint")]
    assert (ours["status"], ours["code"]) == (400, "invalid_value")
    assert not any(_SECRET in file.read_text() for file in _logs_of_this_cluster().rglob("*.log"))


@pytest.mark.long
def test_a_request_is_followed_by_its_id_over_two_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = free_port()
    config["logging_config"] = {"encoding": "JSON", "enable_access_log": True}
    folder = tmp_path_factory.mktemp("r")
    with (
        two_nodes(folder, free_port()) as nodes,
        httpx2.Client(base_url=f"http://127.0.0.1:{config['http_options']['port']}", timeout=_WAIT_S) as client,
    ):
        nodes.deploy(config)
        deadline_s = time.monotonic() + _WAIT_S
        while not _is_ready(client):
            assert time.monotonic() < deadline_s
            time.sleep(1)
        assert client.post("/v1/images/generations", **_request("req_followed")).status_code == 200
        lines = _until_seen(folder, "req_followed", _DEPLOYMENTS | {"proxy"})
    assert len({line["node_id"] for line in lines}) == 2


def _is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx2.TransportError:
        return False
