"""The graph and its configs, without a running cluster."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from ray import serve
from ray.serve import Application
from ray.serve._private.build_app import build_app as built_by_serve
from ray.serve.schema import ServeDeploySchema

from atelier.core.control import TransportName
from atelier.core.errors import ModelNotFound
from deployments.limits import LIMITS, RouterLimits
from deployments.options import DenoiserOptions, GraphArgs
from graph import build, build_app, build_denoiser

_ROOT = Path(__file__).parents[3]
_NODES = {"Router", "Worker", "TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler"}


def _config(name: str) -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load((_ROOT / name).read_text()))


@pytest.mark.slow
def test_the_graph_is_built_without_model_libraries() -> None:
    script = (
        "import sys, graph, deployments.stages\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd=_ROOT)


_CONFIGS_OF_CARDS = ["configs/sdxl-24gb.yaml", "configs/sdxl-15gb.yaml", "configs/sdxl-6gb.yaml"]
_GPU_CONFIGS = ["configs/sdxl-80gb.yaml", "configs/high-availability.yaml"]


@pytest.mark.parametrize("name", ["serve_config.yaml", *_GPU_CONFIGS, *_CONFIGS_OF_CARDS])
def test_configs_are_complete(name: str) -> None:
    [application] = _config(name).applications
    args = GraphArgs.model_validate(application.args)
    assert application.import_path == "graph:build"
    assert {deployment.name for deployment in application.deployments} <= _NODES
    args.read({})
    for deployment in application.deployments:
        if isinstance(deployment.user_config, dict):
            LIMITS[deployment.name].model_validate(deployment.user_config)


@pytest.mark.parametrize("name", _GPU_CONFIGS)
def test_gpu_fractions_fit_one_card_and_every_model_replica_has_one(name: str) -> None:
    [application] = _config(name).applications
    fractions = {
        deployment.name: deployment.ray_actor_options.num_gpus
        for deployment in application.deployments
        if deployment.name not in ("Router", "Worker")
    }
    assert set(fractions) == _NODES - {"Router", "Worker"}
    assert all(fraction > 0 for fraction in fractions.values())
    assert sum(fractions.values()) == pytest.approx(1)
    args = GraphArgs.model_validate(application.args)
    replicas = (args.text_encoder, args.annotator, args.denoiser, args.autoencoder, args.upscaler)
    assert {options.device for options in replicas} == {"cuda"}


def test_with_high_availability_a_node_has_one_of_two_replicas_and_a_bucket() -> None:
    [application] = _config("configs/high-availability.yaml").applications
    assert {deployment.name for deployment in application.deployments} == _NODES
    assert {(one.num_replicas, one.max_replicas_per_node) for one in application.deployments} == {(2, 1)}
    assert application.runtime_env["env_vars"]["ATELIER_BLOBS_URL"].startswith("s3://")
    assert application.runtime_env["env_vars"]["ATELIER_DATABASE_URL"].startswith("postgresql://")


@pytest.mark.parametrize("name", ["serve_config.yaml", *_GPU_CONFIGS])
def test_the_proxy_waits_longer_than_the_router(name: str) -> None:
    config = _config(name)
    assert config.http_options.request_timeout_s > RouterLimits().default_deadline_s


def test_half_precision_is_never_on_the_cpu_by_default() -> None:
    args = GraphArgs()
    assert {args.text_encoder.dtype, args.denoiser.dtype, args.autoencoder.dtype} == {"float32"}


def test_serve_can_see_the_type_of_the_arguments() -> None:
    assert inspect.signature(build).parameters["args"].annotation is GraphArgs


def test_remote_residuals_need_replicas_with_equal_options() -> None:
    for name, other in (("num_threads", 1), ("dtype", "bfloat16")):
        fields = {"denoiser": {"control_transports": ["handle", "in_process"]}, "controlnet": {name: other}}
        with pytest.raises(ValidationError, match=f"controlnet.{name} is {other}"):
            GraphArgs.model_validate(fields)
    assert GraphArgs.model_validate({"controlnet": {"num_threads": 1}}).controlnet.num_threads == 1


def test_a_misspelt_argument_is_rejected() -> None:
    with pytest.raises(ValidationError, match="num_thread"):
        GraphArgs.model_validate({"denoiser": {"num_thread": 2}})


def _names(app: Application) -> set[str]:
    """The names of an application's deployments."""
    return {deployment.name for deployment in built_by_serve(app, name="atelier").deployments}


def test_the_default_graph_has_no_controlnet_replicas() -> None:
    assert _names(build(GraphArgs())) == _NODES


@pytest.mark.parametrize("transport", ["same_node", "handle"])
def test_a_remote_transport_adds_controlnet_replicas(transport: TransportName) -> None:
    args = GraphArgs(denoiser=DenoiserOptions(control_transports=(transport, "in_process")))
    assert _names(build(args)) == _NODES | {"ControlNet"}


@pytest.mark.parametrize("transports", [["same_node"], ["handle", "in_process"]])
def test_residuals_of_a_gpu_do_not_travel_through_the_hosts_memory(transports: list[str]) -> None:
    on_gpu = {"device": "cuda", "dtype": "float16"}
    fields = {"denoiser": {**on_gpu, "control_transports": transports}, "controlnet": on_gpu}
    with pytest.raises(ValidationError, match=r"control_transports .* with device: cuda, use in_process alone"):
        GraphArgs.model_validate(fields)
    fields["denoiser"] = {**on_gpu, "control_transports": ["in_process"]}
    assert GraphArgs.model_validate(fields).denoiser.device == "cuda"


@pytest.mark.parametrize("options", [{}, {"device": "cuda", "memory_level": "sequential"}])
def test_cuda_graphs_need_a_gpu_that_holds_the_unet(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="cuda_graphs needs device: cuda"):
        DenoiserOptions.model_validate({**options, "cuda_graphs": True})
    assert DenoiserOptions(device="cuda", cuda_graphs=True).cuda_graphs


def test_an_app_is_built_from_a_mapping_or_from_typed_args() -> None:
    transports = ["handle", "in_process"]
    app = build_app({"denoiser": {"control_transports": transports}})
    assert _names(app) == _NODES | {"ControlNet"}
    assert _names(build_app(GraphArgs())) == _NODES
    with pytest.raises(ValidationError, match="num_thread"):
        build_app({"denoiser": {"num_thread": 2}})


def test_limits_of_an_app_are_user_configs_of_its_deployments() -> None:
    app = build_app({}, user_configs={"Router": {"max_wait_s": 30}, "Denoiser": {"max_rows": 64}})
    deployments = built_by_serve(app, name="atelier").deployments
    given = {one.name: one._deployment_config.user_config for one in deployments}
    assert given == {**dict.fromkeys(_NODES), "Router": {"max_wait_s": 30}, "Denoiser": {"max_rows": 64}}


def test_an_app_is_bound_in_one_of_others() -> None:
    class Studio:
        pass

    app = serve.deployment(Studio).bind(build_app({}))
    built_by_serve(app, name="studio").validate_single_fastapi_ingress()
    assert _names(app) == {"Studio", *_NODES}


def test_a_denoiser_is_built_alone() -> None:
    assert _names(build_denoiser({})) == {"Denoiser"}
    args = GraphArgs(denoiser=DenoiserOptions(control_transports=("handle", "in_process")))
    assert _names(build_denoiser(args)) == {"Denoiser", "ControlNet"}
    with pytest.raises(ModelNotFound, match="missing"):
        build_denoiser({"models": ["missing"]})


def test_serve_options_of_a_denoiser_alone_can_be_overridden() -> None:
    options = {"num_replicas": 2, "ray_actor_options": {"num_gpus": 0.5}}
    app = build_denoiser({}, override_serve_options=options)
    [denoiser] = built_by_serve(app, name="atelier").deployments
    assert (denoiser.num_replicas, denoiser.ray_actor_options["num_gpus"]) == (2, 0.5)
    assert denoiser.max_ongoing_requests == 1000


def test_the_router_takes_a_crowd_that_serves_proxy_would_reject_in_plain_text() -> None:
    built = built_by_serve(build(GraphArgs()), name="atelier")
    [router] = [deployment for deployment in built.deployments if deployment.name == "Router"]
    assert (router.max_ongoing_requests, router.max_queued_requests) == (5000, 5000)


def test_serve_replaces_bound_deployments_inside_the_handles() -> None:
    built = built_by_serve(
        build(GraphArgs()), name="atelier", make_deployment_handle=lambda deployment, _: deployment.name
    )
    [router] = [deployment for deployment in built.deployments if deployment.name == "Router"]
    [worker] = [deployment for deployment in built.deployments if deployment.name == "Worker"]
    for handles in (router.init_args[2], worker.init_args[1]):
        names = [getattr(handles, field.name) for field in fields(handles)]
        assert names == ["TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler"]


def _options(cls: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Names and fields of an options class and, recursively, of the options classes nested in it."""
    for name, field in cls.model_fields.items():
        yield f"{cls.__name__}.{name}", field
        if isinstance(field.default, BaseModel):
            yield from _options(type(field.default))


def test_every_option_has_a_description() -> None:
    options = dict(_options(GraphArgs))
    assert len(options) > 30
    for name, field in options.items():
        assert field.description is not None, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize("deployment", ["annotator", "upscaler", "controlnet"])
def test_a_memory_level_that_would_change_nothing_is_refused(deployment: str) -> None:
    with pytest.raises(ValidationError, match="memory_level"):
        GraphArgs.model_validate({deployment: {"memory_level": "balanced"}})


def test_an_unknown_memory_level_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match="'none', 'balanced', 'sequential' or 'aggressive'"):
        GraphArgs.model_validate({"denoiser": {"memory_level": "int8"}})
