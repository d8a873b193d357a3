"""The graph: deployments bound together, and nothing else.

`serve run graph:app` starts it with defaults; `serve_config.yaml` gives `build` its arguments. Annotations are not
postponed in this module, because Serve converts `args` to a GraphArgs only if the signature holds the class itself.
"""

import os
from collections.abc import Mapping
from typing import Any

from ray.serve import Application

from atelier.catalogue.catalogue import Catalogue
from deployments.annotator import Annotator
from deployments.autoencoder import Autoencoder
from deployments.controlnet import ControlNet
from deployments.denoiser import Denoiser
from deployments.handles import GraphHandles
from deployments.options import GraphArgs
from deployments.router import Router
from deployments.routing import ROUTING
from deployments.serving import UserConfigs, node
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler
from deployments.worker import Worker


def build(args: GraphArgs) -> Application:
    """Bind the deployments. Raises CatalogueError for a wrong catalogue, ModelNotFound for an id that it lacks."""
    return build_app(args)


def build_app(args: GraphArgs | Mapping[str, object], *, user_configs: UserConfigs | None = None) -> Application:
    """Build the graph to run it under any name and route prefix, or to bind it in another graph.

    `args` are those of a Serve config, `user_configs` the limits by deployment, such as
    `{"Router": {"max_wait_s": 30}}`. Raises ValidationError if the args are wrong, and what `build` raises.
    """
    args = GraphArgs.model_validate(args)
    catalogue, limits = args.read(os.environ), user_configs or {}
    text_encoder = node(TextEncoder, limits, max_ongoing_requests=256, num_cpus=0.15)
    annotator = node(Annotator, limits, max_ongoing_requests=64, num_cpus=0.05)
    autoencoder = node(Autoencoder, limits, max_ongoing_requests=64, num_cpus=0.1)
    upscaler = node(Upscaler, limits, max_ongoing_requests=16, num_cpus=0.1)
    # More than clients come at once: the Router rejects in the API's form, Serve's proxy in plain text.
    router = node(Router, limits, max_ongoing_requests=5000, num_cpus=0.1).options(max_queued_requests=5000)
    handles = GraphHandles(
        text_encoder=text_encoder.bind(catalogue, args.text_encoder),
        annotator=annotator.bind(catalogue, args.annotator),
        denoiser=_denoiser(catalogue, args, limits, {}),
        autoencoder=autoencoder.bind(catalogue, args.autoencoder),
        upscaler=upscaler.bind(catalogue, args.upscaler),
    )
    worker = node(Worker, limits, max_ongoing_requests=1, num_cpus=0.05)
    return router.bind(catalogue, args.router, handles, worker.bind(catalogue, handles))


def build_denoiser(
    args: GraphArgs | Mapping[str, object], *, override_serve_options: Mapping[str, Any] | None = None
) -> Application:
    """Build the Denoiser alone, to bind it in another graph; with ControlNet replicas if its transports need them.

    `override_serve_options` are options of `serve.deployment` for the Denoiser, such as `num_replicas` or
    `ray_actor_options`. Raises what `build_app` raises.
    """
    args = GraphArgs.model_validate(args)
    return _denoiser(args.read(os.environ), args, {}, override_serve_options or {})


def _denoiser(
    catalogue: Catalogue, args: GraphArgs, limits: UserConfigs, serve_options: Mapping[str, Any]
) -> Application:
    controlnet = node(ControlNet, limits, max_ongoing_requests=64, num_cpus=0.05)
    # More than `max_waiting` and the batch: the engine rejects what is too much, so that metrics are never shut out.
    denoiser = node(Denoiser, limits, max_ongoing_requests=1000, num_cpus=0.4)
    denoiser = denoiser.options(request_router_config=ROUTING).options(**serve_options)
    residuals = controlnet.bind(catalogue, args.controlnet) if args.denoiser.has_remote_control else None
    return denoiser.bind(catalogue, args.denoiser, residuals)


app = build(GraphArgs())
