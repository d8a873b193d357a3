"""One Ray cluster for all integration tests, with one graph on it, deployed as `serve deploy` does."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from deployments.deploy import deploy, status
from deployments.progress import failure, is_running
from tests.hub import Hub, hub
from tests.integration.steps import Steps

_CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
_WEIGHTS = Path(__file__).parents[2] / "zoo/weights"
_WAIT_S = 240
WEBHOOK_SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Graph:
    """A running graph whose config can be changed."""

    def __init__(self, port: int, loras_dir: Path, model_hub: Hub) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._port = port
        self.loras_dir = loras_dir
        self.model_hub = model_hub
        #: Limits by deployment, and arguments of the graph, that differ from serve_config.yaml.
        self.user_configs: dict[str, dict[str, object]] = {"Router": {"max_body_bytes": 100_000}}
        #: Size of the cache of results. Without one, tests that ask for the same image again see it made again.
        self.max_cache_bytes = 0
        self.args: dict[str, Any] = {}
        self.num_denoisers = 1

    def deploy(self) -> None:
        """Deploy the config; returns when every deployment runs."""
        config = yaml.safe_load(_CONFIG.read_text())
        config["http_options"]["port"] = self._port
        config["logging_config"] = {"encoding": "JSON", "enable_access_log": True}
        [application] = config["applications"]
        application["args"] |= {"loras_dir": str(self.loras_dir), **self.args}
        for deployment in application["deployments"]:
            calls_others = deployment["name"] in ("Router", "Worker")
            cache = {"max_cache_bytes": self.max_cache_bytes} if calls_others else {}
            deployment["user_config"] = {**cache, **self.user_configs.get(deployment["name"], {})}
            deployment["num_replicas"] = self.num_denoisers if deployment["name"] == "Denoiser" else 1
        deploy(ServeDeploySchema.model_validate(config))
        start_s = time.monotonic()
        while not is_running(now := status()):
            assert failure(now) is None
            assert time.monotonic() - start_s < _WAIT_S, now
            time.sleep(0.2)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A graph that runs until the session ends."""
    # Webhooks to this machine.
    os.environ["ATELIER_WEBHOOK_SECRET"] = WEBHOOK_SECRET
    os.environ["ATELIER_WEBHOOK_HOSTS"] = '["127.0.0.1"]'
    os.environ["ATELIER_MODELS_DIR"] = str(tmp_path_factory.mktemp("models"))
    with _model_hub(tmp_path_factory.mktemp("published")) as model_hub:
        os.environ |= model_hub.environment
        ray.init(include_dashboard=False, log_to_driver=False)
        graph = Graph(free_port(), tmp_path_factory.mktemp("loras"), model_hub)
        graph.deploy()
        yield graph
        serve.shutdown()
        ray.shutdown()


@contextmanager
def _model_hub(root: Path) -> Iterator[Hub]:
    """A model hub with the LoRA that the pages download, which is one of the zoo's, and a copy of tiny-sdxl."""
    lora, model = "nerijs/pixel-art-xl", "me/copy"
    (root / lora).mkdir(parents=True)
    shutil.copy(_WEIGHTS / "tiny-neon/tiny-neon.safetensors", root / lora / "pixel-art-xl.safetensors")
    shutil.copytree(_WEIGHTS / "tiny-sdxl", root / model)
    with hub(root) as running:
        running.cards[lora] = {"tags": ["lora"], "cardData": {"license": "creativeml-openrail-m"}}
        running.cards[model] = {"tags": ["diffusers:StableDiffusionXLPipeline"], "cardData": {"license": "mit"}}
        yield running


@pytest.fixture(scope="session")
def address(deployed: Graph) -> str:
    """The HTTP address of the graph."""
    return deployed.address


@pytest.fixture
def steps(address: str) -> Steps:
    return Steps(address)
