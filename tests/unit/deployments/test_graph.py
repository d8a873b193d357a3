"""The graph and its configs, without starting anything."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from atelier.catalogue.catalogue import read_catalogue
from deployments.options import GraphArgs
from graph import build

_ROOT = Path(__file__).parents[3]
_NODES = {"Router", "TextEncoder", "ControlNet", "Denoiser", "Autoencoder", "Upscaler"}


def _config(name: str) -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load((_ROOT / name).read_text()))


def test_the_graph_is_built_without_model_libraries() -> None:
    script = (
        "import sys, graph, deployments.stages\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=_ROOT)


@pytest.mark.parametrize("name", ["serve_config.yaml", "serve_config.gpu.yaml"])
def test_configs_are_complete(name: str) -> None:
    [application] = _config(name).applications
    args = GraphArgs.model_validate(application.args)
    assert application.import_path == "graph:build"
    assert {deployment.name for deployment in application.deployments} <= _NODES
    read_catalogue(args.catalogue).only(args.models, args.controlnets, args.annotators, args.upscalers)


def test_gpu_fractions_fit_one_card_and_every_model_replica_has_one() -> None:
    [application] = _config("serve_config.gpu.yaml").applications
    fractions = {
        deployment.name: deployment.ray_actor_options.num_gpus
        for deployment in application.deployments
        if deployment.name != "Router"
    }
    assert set(fractions) == _NODES - {"Router"}
    assert all(fraction > 0 for fraction in fractions.values())
    assert sum(fractions.values()) <= 1
    args = GraphArgs.model_validate(application.args)
    assert {args.text_encoder.device, args.controlnet.device, args.denoiser.device, args.autoencoder.device} == {
        "cuda"
    }


def test_half_precision_is_never_on_the_cpu_by_default() -> None:
    args = GraphArgs()
    assert {args.text_encoder.dtype, args.denoiser.dtype, args.autoencoder.dtype} == {"float32"}


def test_serve_can_see_the_type_of_the_arguments() -> None:
    assert inspect.signature(build).parameters["args"].annotation is GraphArgs


def test_control_over_another_process_needs_equal_replicas() -> None:
    for name, other in (("num_threads", 1), ("dtype", "bfloat16")):
        fields = {"denoiser": {"control_transports": ["handle", "in_process"]}, "controlnet": {name: other}}
        with pytest.raises(ValidationError, match=f"controlnet.{name} is {other}"):
            GraphArgs.model_validate(fields)
    assert GraphArgs.model_validate({"controlnet": {"num_threads": 1}}).controlnet.num_threads == 1


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="num_thread"):
        GraphArgs.model_validate({"denoiser": {"num_thread": 2}})
