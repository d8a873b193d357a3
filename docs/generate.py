"""`python -m docs.generate` writes the reference pages (`PAGES`) in docs/; `--check` only compares them.

The pages are made from the classes of parameters, options and errors and from the declarations of metrics, so that
each is described in one place. A test runs `--check`. All other pages are written by hand.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atelier.api.native.schemas import EnhanceParams
from atelier.api.openai.schemas import (
    ImagesEditRequest,
    ImagesGenerateRequest,
    ImagesParams,
    ImagesVariationRequest,
)
from atelier.catalogue.storage import MODELS_DIR_DESCRIPTION, MODELS_DIR_VARIABLE
from atelier.core.control import CONTROL_KINDS
from atelier.core.errors import AtelierError
from atelier.core.params import (
    AnnotateParams,
    ControlParams,
    DownloadParams,
    GenerateParams,
    HiresStep,
    InspectParams,
    LoraParams,
    UpscaleParams,
    UpscaleStep,
)
from atelier.core.sampling import SAMPLERS
from deployments.exported import Declaration
from deployments.limits import DenoiserLimits, ReplicaLimits, RouterLimits, WorkerLimits
from deployments.metrics import DENOISER_METRICS, ROUTER_METRICS
from deployments.options import GraphArgs
from deployments.settings import Settings
from docs.tables import default_in_words, field_table, table

_FOLDER = Path(__file__).parent
_NOTICE = "<!-- Written by `python -m docs.generate`; do not edit by hand. -->"
_WIDTH = 118

#: A section of a page: its heading, its introduction, and a Markdown table.
Section = tuple[str, str, str]


def main() -> int:
    """Write the pages; with `--check`, name those that are out of date and return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="folder of the pages")
    arguments = parser.parse_args()
    stale = []
    for name, make_page in PAGES.items():
        file, text = arguments.folder / name, make_page()
        if not arguments.check:
            file.write_text(text)
        elif not file.is_file() or file.read_text() != text:
            stale.append(name)
            sys.stderr.write(f"{name} is out of date; run python -m docs.generate\n")
    return 1 if stale else 0


def parameters_page() -> str:
    """Return the text of parameters.md: every field of every request."""
    return _page(
        "Parameters",
        "These are the fields of all requests, over HTTP and [by handle](handles.md). Unknown names are rejected, "
        "and `null` is the same as an absent field. An image is base64, optionally as a data URL; in a form it may "
        "be an upload, and by handle bytes. In a form, lists and objects are sent as JSON. What the fields do "
        "together is described in [HTTP](http.md).",
        [
            (
                "Generations",
                "`POST /v1/images/generations`, edits and variations; by handle `generate` and `stream`.",
                field_table(GenerateParams),
            ),
            ("controls", "Each object in the list `controls`.", field_table(ControlParams)),
            ("loras", "Each object in the list `loras`; see [LoRAs](loras.md).", field_table(LoraParams)),
            ("hires", "The object `hires`.", field_table(HiresStep)),
            ("upscale", "The object `upscale`.", field_table(UpscaleStep)),
            (
                "OpenAI's words",
                "These are also read over HTTP and from the mappings that are sent by handle. "
                "`true_cfg_scale` is another name for `guidance_scale`.",
                field_table(ImagesParams, _added(ImagesParams, GenerateParams)),
            ),
            (
                "Answers and streams",
                "By handle, images are bytes unless `response_format` is `url`. Streams have the method `stream`; "
                "labels are not returned.",
                field_table(ImagesGenerateRequest, _added(ImagesGenerateRequest, ImagesParams)),
            ),
            (
                "Edits",
                "These are further fields of `POST /v1/images/edits`, as a form or in JSON, and of `edit` by handle.",
                field_table(ImagesEditRequest, _added(ImagesEditRequest, ImagesGenerateRequest)),
            ),
            (
                "Variations",
                "These fields of `POST /v1/images/variations`, as a form or in JSON, and of `variation` by handle, "
                "are new or differ.",
                field_table(ImagesVariationRequest, ["image", "prompt", "strength"]),
            ),
            ("Upscaling", "`POST /v1/images/upscale`, and `upscale` by handle.", field_table(UpscaleParams)),
            ("Upscaling to a data URL", "`POST /enhance-media`.", field_table(EnhanceParams)),
            ("Control maps", "`POST /v1/images/annotate`, and `annotate` by handle.", field_table(AnnotateParams)),
            ("Metadata", "`POST /v1/images/inspect`, and `inspect` by handle.", field_table(InspectParams)),
            ("Downloads", "`POST /v1/hub/download`, and `download` by handle.", field_table(DownloadParams)),
            ("Samplers", "The values of `sampler`.", _sampler_table()),
            ("Control kinds", "The values of `kind`.", _control_kind_table()),
        ],
    )


def configuration_page() -> str:
    """Return the text of configuration.md: every option of the graph."""
    groups = {name: kind for name, field in GraphArgs.model_fields.items() if (kind := _model_of(field)) is not None}
    return _page(
        "Configuration",
        "These are the arguments of `graph:build`, given under `args:` in a Serve config such as "
        "`serve_config.yaml`. Unknown names are rejected. Replicas, resources and autoscaling are Serve's own "
        "settings, under `deployments:`; see [deploying](deploying.md).",
        [
            (
                "args",
                "The models that the graph serves, by their ids in the catalogue.",
                field_table(GraphArgs, [name for name in GraphArgs.model_fields if name not in groups]),
            ),
            *((f"args.{name}", _summary(kind), field_table(kind)) for name, kind in groups.items()),
            (
                "user_config of the Router",
                "Limits stand under `user_config` of a deployment. When only they change, `serve deploy` passes them "
                "to the running replicas, which go on with their requests; a change under `args:` restarts every "
                "replica. A mistake is logged as an error by the replicas, and the limits stay as they were.",
                field_table(RouterLimits),
            ),
            ("user_config of the Denoiser", _summary(DenoiserLimits), field_table(DenoiserLimits)),
            ("user_config of the Worker", _summary(WorkerLimits), field_table(WorkerLimits)),
            ("user_config of the other deployments", _summary(ReplicaLimits), field_table(ReplicaLimits)),
            (
                "Environment",
                f"`{MODELS_DIR_VARIABLE}` is read when the graph is built, and by `python -m atelier.models.fetch`. "
                "Each Router and Worker reads the others when it starts. Where to set them, and those of Serve and "
                "the hub, is described in [clusters](cluster.md#the-environment).",
                _environment_table(),
            ),
        ],
    )


def errors_page() -> str:
    """Return the text of errors.md: every error that a client can receive."""
    return _page(
        "Errors",
        "These are the classes in `atelier.core.errors`; a subclass stands below its base, indented. Over HTTP the "
        'body is `{"error": {"message", "type", "param", "code"}}`, where `param` names the field that caused the '
        "error. By handle these are attributes of the exception. A retryable error says in `Retry-After` "
        "(`retry_after_s`) when to try again, any other has the header `x-should-retry: false`. How to catch and "
        "retry errors is described in [handles](handles.md#errors).",
        [
            (
                "Classes",
                "The meaning is also the default message; most errors carry a more precise one.",
                _error_table(),
            )
        ],
    )


def metrics_page() -> str:
    """Return the text of metrics.md: every metric of the graph."""
    return _page(
        "Metrics",
        "Ray's exporter on each node has these as `ray_atelier_…`, some seconds late, with the labels `application`, "
        "`deployment`, `replica` and those below. `GET /metrics` of a Router has them under the names below, with "
        "`replica` and those below: that Router's own, and every Denoiser's, with `atelier_metrics_complete` 0 if a "
        "Denoiser did not answer. With several Routers only Ray's exporters are complete. Ray's exporter shows a "
        "counter from its first event on. A histogram has the series `…_bucket`, with the label `le`, `…_sum` and "
        "`…_count`. How to watch a server by them is described in [watching](watching.md).",
        [
            ("Router", "Requests that have ended, over HTTP and by handle.", _metric_table(ROUTER_METRICS)),
            ("Denoiser", "The steps of the engine.", _metric_table(DENOISER_METRICS)),
        ],
    )


#: The functions that make the pages, by the pages' file names.
PAGES: Mapping[str, Callable[[], str]] = {
    "parameters.md": parameters_page,
    "configuration.md": configuration_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
}


def _page(title: str, introduction: str, sections: Iterable[Section]) -> str:
    parts = [_NOTICE, f"# {title}", _wrapped(introduction)]
    for heading, text, rows in sections:
        parts += [f"## {heading}", _wrapped(text), rows]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)


def _added(kind: type[BaseModel], base: type[BaseModel]) -> Sequence[str]:
    """Return the names of the fields that a pydantic model has and its base has not."""
    return [name for name in kind.model_fields if name not in base.model_fields]


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the pydantic model that is the field's type, or None if it has another type."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _summary(kind: type) -> str:
    """The first line of a class's docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def _sampler_table() -> str:
    header = (
        "sampler",
        "AUTOMATIC1111's name",
        "schedules",
        "most steps",
        "UNet evaluations per step",
        "takes `eta`",
    )
    return table(
        header,
        (
            (
                f"`{name}`",
                sampler.a1111_name,
                ", ".join(f"`{schedule}`" for schedule in sampler.schedules),
                str(sampler.max_steps),
                str(sampler.order),
                "yes" if sampler.takes_eta else "no",
            )
            for name, sampler in SAMPLERS.items()
        ),
    )


def _control_kind_table() -> str:
    drawn_by = {"opencv": "OpenCV", "model": "a model in the catalogue's `annotators`"}
    return table(("kind", "map drawn by"), ((f"`{kind}`", drawn_by[by]) for kind, by in CONTROL_KINDS.items()))


def _environment_table() -> str:
    """Return a table of the environment variables; a default that depends on the machine is described in words."""
    prefix = Settings.model_config.get("env_prefix", "")
    schema = Settings.model_json_schema()["properties"]
    defaults = {
        name: default_in_words(field["default"]) if "default" in field else "below `~/.local/share/atelier`"
        for name, field in schema.items()
    }
    rows = [
        (f"`{prefix}{name}`".upper(), defaults[name], field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return table(
        ("variable", "default", "description"),
        [(f"`{MODELS_DIR_VARIABLE}`", "—", MODELS_DIR_DESCRIPTION), *rows],
    )


def _metric_table(metrics: Iterable[Declaration]) -> str:
    return table(
        ("metric", "kind", "labels", "meaning"),
        (
            (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels) or "—", metric.text)
            for metric in metrics
        ),
    )


def _error_table() -> str:
    header = ("class", "status", "`type`", "`code`", "retryable", "meaning")
    return table(
        header,
        (
            (
                f"{'&emsp;' * depth}`{kind.__name__}`",
                str(kind.status),
                f"`{kind.type}`",
                f"`{kind.code}`",
                "yes" if kind.is_retryable else "no",
                _summary(kind),
            )
            for depth, kind in _tree(AtelierError)
        ),
    )


def _tree(kind: type[AtelierError], depth: int = 0) -> Iterator[tuple[int, type[AtelierError]]]:
    """Yield a class and its subclasses with their depths, each after its base and in the order of definition."""
    yield depth, kind
    for subclass in kind.__subclasses__():
        yield from _tree(subclass, depth + 1)


if __name__ == "__main__":
    sys.exit(main())
