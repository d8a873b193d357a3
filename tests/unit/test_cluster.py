"""cluster.yaml, as `ray up` reads it before it calls AWS."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

_ROOT = Path(__file__).parents[2]

Fields = dict[str, Any]


@pytest.fixture
def cluster() -> Fields:
    config: Fields = yaml.safe_load((_ROOT / "cluster.yaml").read_text())
    return config


def _environment(cluster: Fields) -> dict[str, str]:
    """The environment of the container, which `ray start` and the setup commands inherit."""
    options = cluster["docker"]["run_options"]
    return dict(option.removeprefix("--env=").split("=", 1) for option in options if option.startswith("--env="))


def test_ray_accepts_the_file(cluster: Fields) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    # A misspelt name would be kept beside Ray's default of the right one.
    assert prepared["worker_setup_commands"] == cluster["worker_setup_commands"]
    assert prepared["head_start_ray_commands"] == cluster["head_start_ray_commands"]
    with pytest.raises(Exception, match="setup_command"):
        validate_config({**prepared, "setup_command": []})


def test_ray_start_has_the_environment_of_the_server(cluster: Fields) -> None:
    environment = _environment(cluster)
    assert environment["RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"] == "1"
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "deployments.proxy:middleware"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["ATELIER_BLOBS_URL"].startswith("s3://")
    assert environment["AWS_REGION"] == cluster["provider"]["region"]
    mounted = next(one for one in cluster["docker"]["run_options"] if one.startswith("--volume="))
    assert mounted.endswith(f":{environment['ATELIER_MODELS_DIR']}")


def test_every_worker_fetches_what_the_config_serves(cluster: Fields) -> None:
    *conversions, fetch = [shlex.split(command) for command in cluster["worker_setup_commands"]]
    assert fetch[:4] == ["HF_HUB_OFFLINE=0", "python", "-m", "atelier.models.fetch"]
    config = yaml.safe_load((_ROOT / fetch[4]).read_text())
    models_dir = _environment(cluster)["ATELIER_MODELS_DIR"]
    wanted = config["applications"][0]["args"]["upscalers"]
    assert [command[4] for command in conversions] == [
        f"{models_dir}/upscalers/{name}.safetensors" for name in wanted
    ]
    assert [Path(command[3]).stem for command in conversions] == wanted


def test_the_head_has_no_gpu_and_a_worker_holds_a_replica_of_each_deployment(cluster: Fields) -> None:
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    [start] = [command for command in cluster["head_start_ray_commands"] if "--head" in command]
    assert "--num-gpus=0" in start
    config = yaml.safe_load((_ROOT / "configs" / "sdxl-80gb.yaml").read_text())
    options = [one["ray_actor_options"] for one in config["applications"][0]["deployments"]]
    assert sum(one["num_cpus"] for one in options) <= types["gpu"]["resources"]["CPU"]


def test_the_image_is_of_the_same_version_everywhere(cluster: Fields) -> None:
    [version] = re.findall(r'^version = "(.+)"$', (_ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    image = f"registry.example.org/atelier:{version}"
    assert cluster["docker"]["image"] == image
    for name in ("Dockerfile", "kubernetes/rayservice.yaml"):
        assert set(re.findall(r"registry\.example\.org/atelier:[\w.]+", (_ROOT / "deploy" / name).read_text())) == {
            image
        }
