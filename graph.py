"""The graph: deployments bound together, and nothing else.

`serve run graph:app` starts it with defaults; `serve_config.yaml` gives `build` its arguments. Annotations are not
postponed in this module, because Serve converts `args` to a GraphArgs only if the signature holds the class itself.
"""

from ray.serve import Application

from atelier.catalogue.catalogue import read_catalogue
from deployments.annotator import Annotator
from deployments.autoencoder import Autoencoder
from deployments.controlnet import ControlNet
from deployments.denoiser import Denoiser
from deployments.handles import GraphHandles
from deployments.options import GraphArgs
from deployments.router import Router
from deployments.serving import node
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler


def build(args: GraphArgs) -> Application:
    """Bind the deployments. Raises CatalogueError for a wrong catalogue, ModelNotFound for an id that it lacks."""
    catalogue = read_catalogue(args.catalogue).only(args.models, args.controlnets, args.annotators, args.upscalers)
    text_encoder = node(TextEncoder, max_ongoing_requests=256, num_cpus=0.2)
    annotator = node(Annotator, max_ongoing_requests=64, num_cpus=0.05)
    controlnet = node(ControlNet, max_ongoing_requests=64, num_cpus=0.05)
    # More than `max_waiting` and the batch: the engine rejects what is too much, so that metrics are never shut out.
    denoiser = node(Denoiser, max_ongoing_requests=1000, num_cpus=0.4)
    autoencoder = node(Autoencoder, max_ongoing_requests=64, num_cpus=0.1)
    upscaler = node(Upscaler, max_ongoing_requests=16, num_cpus=0.1)
    # More than clients come at once: the Router rejects in the API's form, Serve's proxy in plain text.
    router = node(Router, max_ongoing_requests=5000, num_cpus=0.1)
    residuals = controlnet.bind(catalogue, args.controlnet) if args.denoiser.has_remote_control else None
    handles = GraphHandles(
        text_encoder=text_encoder.bind(catalogue, args.text_encoder),
        annotator=annotator.bind(catalogue, args.annotator),
        denoiser=denoiser.bind(catalogue, args.denoiser, residuals),
        autoencoder=autoencoder.bind(catalogue, args.autoencoder),
        upscaler=upscaler.bind(catalogue, args.upscaler),
    )
    return router.bind(catalogue, args.router, handles)


app = build(GraphArgs())
