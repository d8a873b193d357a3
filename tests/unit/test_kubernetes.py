"""deploy/kubernetes: the RayService serves a config of this repository, and its pods have what the server needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.deployment import deployment_to_schema

from deployments.serving import node

_ROOT = Path(__file__).parents[2]
_FOLDER = _ROOT / "deploy" / "kubernetes"

Fields = dict[str, Any]


def _documents(name: str) -> dict[str, Fields]:
    """The objects of a file by their kinds."""
    return {document["kind"]: document for document in yaml.safe_load_all((_FOLDER / name).read_text())}


@pytest.fixture
def service() -> Fields:
    spec: Fields = _documents("rayservice.yaml")["RayService"]["spec"]
    return spec


def _head(service: Fields) -> Fields:
    group: Fields = service["rayClusterConfig"]["headGroupSpec"]
    return group


def _worker(service: Fields) -> Fields:
    [group] = service["rayClusterConfig"]["workerGroupSpecs"]
    return dict(group)


def _pods(service: Fields) -> list[Fields]:
    redis = _documents("redis.yaml")["Deployment"]["spec"]
    return [group["template"]["spec"] for group in (_head(service), _worker(service), redis)]


def _environment(container: Fields) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def test_the_service_has_the_text_of_the_config(service: Fields) -> None:
    assert service["serveConfigV2"] == (_ROOT / "configs" / "sdxl-80gb.yaml").read_text()


def test_replicas_fit_on_a_worker_and_none_runs_on_the_head(service: Fields) -> None:
    [application] = yaml.safe_load(service["serveConfigV2"])["applications"]
    needed = [
        one["ray_actor_options"] for one in application["deployments"] for _ in range(one.get("num_replicas", 1))
    ]
    [container] = _worker(service)["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert sum(options["num_cpus"] for options in needed) <= int(limits["cpu"])
    assert sum(options.get("num_gpus", 0) for options in needed) <= int(limits["nvidia.com/gpu"]) + 1e-9
    assert _head(service)["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


def test_a_pod_stops_after_its_requests(service: Fields) -> None:
    pod = _worker(service)["template"]["spec"]
    [container] = pod["containers"]
    *_, stop = container["lifecycle"]["preStop"]["exec"]["command"]
    drain, wait = stop.split(";", 1)
    timeout_s = deployment_to_schema(node(object, {}, max_ongoing_requests=1, num_cpus=0)).graceful_shutdown_timeout_s
    assert drain.startswith("ray drain-node ")
    assert f"timeout {timeout_s:.0f} " in wait
    assert pod["terminationGracePeriodSeconds"] > timeout_s


def test_weights_are_fetched_before_a_worker_starts_and_read_from_there(service: Fields) -> None:
    pod = _worker(service)["template"]["spec"]
    [container] = pod["containers"]
    upscalers, models = pod["initContainers"]
    config = service["serveConfigV2"]
    for upscaler in yaml.safe_load(config)["applications"][0]["args"]["upscalers"]:
        assert f" /models/upscalers/{upscaler}.safetensors" in upscalers["command"][-1]
    assert models["command"] == ["python", "-m", "atelier.models.fetch", "configs/sdxl-80gb.yaml"]
    for one in (upscalers, models, container):
        assert _environment(one)["ATELIER_MODELS_DIR"] == "/models"
        assert [mount["mountPath"] for mount in one["volumeMounts"]] == ["/models"]
    assert "HF_HUB_OFFLINE" not in _environment(models)
    [volume] = pod["volumes"]
    claim = _documents("rayservice.yaml")["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim


def test_replicas_never_wait_for_the_network_and_share_their_images(service: Fields) -> None:
    for group in (_head(service), _worker(service)):
        [container] = group["template"]["spec"]["containers"]
        environment = _environment(container)
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert environment["ATELIER_BLOBS_URL"].startswith("s3://")


def test_the_head_recovers_from_redis(service: Fields) -> None:
    options = service["rayClusterConfig"]["gcsFaultToleranceOptions"]
    redis = _documents("redis.yaml")
    [port] = redis["Service"]["spec"]["ports"]
    assert options["redisAddress"] == f"{redis['Service']['metadata']['name']}:{port['port']}"
    [container] = redis["Deployment"]["spec"]["template"]["spec"]["containers"]
    [password] = container["env"]
    assert options["redisPassword"]["valueFrom"] == password["valueFrom"]


def test_every_container_is_probed_and_none_is_privileged(service: Fields) -> None:
    for pod in _pods(service):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in container["securityContext"]
        for container in pod["containers"]:
            assert "readinessProbe" in container
