"""`python -m deployments.doctor CONFIG`: report what a graph serves and needs, and what is missing here.

Exits with 1 if something is missing or wrong. It starts no Ray. On a cluster, run it on every node.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from ray._common.utils import import_attr
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray.serve._private.build_app import build_app
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, ServeDeploySchema

from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import ModelUnavailable
from atelier.models.files import Source, sources
from atelier.stores.database import Database
from deployments.options import GraphArgs, ReplicaOptions
from deployments.run_config import GRAPH, CannotStart, check_arguments, check_weights, read_config
from deployments.settings import Settings

_MB, _GIB = 1e6, 2**30
_ABSENT = "not on this machine"
_NOTHING_MISSING = "Nothing is missing.\n"

#: A heading, and what stands beside it, a line each.
Section = tuple[str, list[str]]


def main() -> int:
    """Print the report; returns 1 if the graph could not start on this machine."""
    parser = argparse.ArgumentParser(prog="python -m deployments.doctor", description=__doc__)
    parser.add_argument("config", type=Path, help="a Serve config, such as serve_config.yaml")
    return examine(parser.parse_args().config)


def examine(file: Path) -> int:
    """Print the report on a config; returns 1 if its graph could not start on this machine."""
    try:
        config = read_config(file)
        check_arguments(config)
        sys.stdout.write(report(config))
        check_weights(config)
        sys.stdout.write(_NOTHING_MISSING)
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def report(config: ServeDeploySchema) -> str:
    """Return the report on the graphs of a config that `check_arguments` has accepted, for people to read."""
    sections = [section for graph in _graphs(config) for section in graph]
    settings = Settings()
    sections += [("this machine", [_machine()]), ("images", [_images(settings)]), ("jobs", [_jobs(settings)])]
    width = max(len(heading) for heading, _ in sections)
    return "".join(
        f"{heading if index == 0 else '':{width}}  {line}\n"
        for heading, lines in sections
        for index, line in enumerate(lines)
    )


def _graphs(config: ServeDeploySchema) -> Iterator[list[Section]]:
    for application in config.applications:
        if application.import_path == GRAPH:
            args = GraphArgs.model_validate(application.args)
            yield _graph(args, {one.name: one for one in application.deployments}, application.name)


def _graph(args: GraphArgs, overrides: Mapping[str, DeploymentSchema], app: str) -> list[Section]:
    catalogue = args.read(os.environ)
    bound = build_app(import_attr(GRAPH)(args), name=app).deployments
    replicas = [_replicas(one.name, overrides.get(one.name), one.ray_actor_options or {}, args) for one in bound]
    return [("serves", [*_files(catalogue)]), ("replicas", replicas)]


def _files(catalogue: Catalogue) -> Iterator[str]:
    """Yield each model with the place and the size of its files."""
    for source in sources(catalogue):
        repository = "" if source.files.repository is None else f", repository {source.files.repository}"
        yield f"{source.entry}{repository}: {_size(source)}"
    models = catalogue.library.look()
    for model in models.by_id.values():
        if model.files.file is not None:
            yield f"Model {model.id!r}: {_file_size(model.files.file)}"
    for file in models.refused:
        yield f"Model file {file.name!r} is not served: {file.reason}"
    for upscaler in catalogue.upscalers:
        yield f"Upscaler {upscaler.id!r}: {_file_size(upscaler.file)}"
    loras = catalogue.loras.look()
    for lora in loras.by_id.values():
        yield f"LoRA {lora.id!r}: {_file_size(lora.file)}"
    for refused in loras.refused:
        yield f"LoRA file {refused.name!r} is not served: {refused.reason}"


def _file_size(file: Path) -> str:
    return f"{file.stat().st_size / _MB:,.1f} MB in {file}" if file.is_file() else _ABSENT


def _size(source: Source) -> str:
    try:
        folder = source.local_folder()
    except ModelUnavailable:
        return _ABSENT
    patterns = (pattern for part in source.parts for pattern in part.patterns(source.files.variant))
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    return f"{sum(file.stat().st_size for file in files) / _MB:,.1f} MB in {folder}"


def _replicas(name: str, override: DeploymentSchema | None, options: Mapping[str, object], args: GraphArgs) -> str:
    """Return a deployment's number of replicas, and what each needs; a config's options replace the graph's."""
    number = "1"
    if override is not None:
        given = override.ray_actor_options
        options = given.model_dump(exclude_unset=True) if hasattr(given, "model_dump") else options
        autoscaling = override.autoscaling_config
        if isinstance(autoscaling, dict):
            bounds = AutoscalingConfig.model_validate(autoscaling)
            number = f"{bounds.min_replicas} to {bounds.max_replicas}"
        elif isinstance(override.num_replicas, int):
            number = str(override.num_replicas)
    needs = [f"{options.get('num_cpus', 1)} CPU", *([f"{gpus} GPU"] if (gpus := options.get("num_gpus")) else [])]
    model_options = getattr(args, _snake_case(name), None)
    if isinstance(model_options, ReplicaOptions):
        needs.append(f"{model_options.dtype} on {model_options.device}")
    return f"{number} × {name}: {', '.join(needs)}"


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).removeprefix("_")


def _machine() -> str:
    memory = psutil.virtual_memory()
    free, total = memory.available / _GIB, memory.total / _GIB
    return f"{os.cpu_count()} CPU, {free:.0f} of {total:.0f} GiB memory free, {_gpus()}"


def _gpus() -> str:
    number = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return f"{number} GPU ({NvidiaGPUAcceleratorManager.get_current_node_accelerator_type()})" if number else "no GPU"


def _images(settings: Settings) -> str:
    shared = "by the Routers of this node only" if settings.blobs_url.startswith("file:") else "by all Routers"
    return f"{settings.blobs_url}, shared {shared}, for {settings.blobs_ttl}"


def _jobs(settings: Settings) -> str:
    """Return where jobs are stored. Raises CannotStart for a wrong URL."""
    try:
        database = Database(settings.database_url)
    except ValueError as error:
        raise CannotStart(str(error)) from None
    shared = "shared by all nodes" if database.is_postgres else "for this node only"
    return f"{database.name}, {shared}, for {settings.jobs_ttl}"


if __name__ == "__main__":
    sys.exit(main())
