"""The graph: deployments bound together. Binding only.

`serve run graph:app` starts it with defaults; `serve_config.yaml` gives `build` its arguments. Annotations are not
postponed here: Serve makes `args:` a GraphArgs only if it finds the class itself in the signature.
"""

from ray.serve import Application

from atelier.catalogue.catalogue import read_catalogue
from deployments.autoencoder import Autoencoder
from deployments.controlnet import ControlNet
from deployments.denoiser import Denoiser
from deployments.options import GraphArgs
from deployments.router import Router
from deployments.serving import node
from deployments.text_encoder import TextEncoder
from deployments.upscaler import Upscaler


def build(args: GraphArgs) -> Application:
    """Raises CatalogueError or ModelNotFound if the arguments name what there is not."""
    catalogue = read_catalogue(args.catalogue).only(args.models, args.controlnets, args.annotators, args.upscalers)
    text_encoder = node(TextEncoder, max_ongoing_requests=256, num_cpus=0.2)
    controlnet = node(ControlNet, max_ongoing_requests=64, num_cpus=0.1).bind(
        catalogue, args.controlnet, has_residuals=args.denoiser.has_remote_control
    )
    denoiser = node(Denoiser, max_ongoing_requests=64, num_cpus=0.4)
    autoencoder = node(Autoencoder, max_ongoing_requests=64, num_cpus=0.1)
    upscaler = node(Upscaler, max_ongoing_requests=16, num_cpus=0.1)
    router = node(Router, max_ongoing_requests=1000, num_cpus=0.1)
    return router.bind(
        catalogue,
        args.router,
        text_encoder=text_encoder.bind(catalogue, args.text_encoder),
        controlnet=controlnet,
        denoiser=denoiser.bind(catalogue, args.denoiser, controlnet),
        upscaler=upscaler.bind(catalogue, args.upscaler),
        autoencoder=autoencoder.bind(catalogue, args.autoencoder),
    )


app = build(GraphArgs())
