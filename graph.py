"""The graph: deployments bound together. Binding only.

`serve run graph:app` starts it with defaults; `serve_config.yaml` gives `build` its arguments.
"""

from __future__ import annotations

from ray.serve import Application

from atelier.catalogue.catalogue import read_catalogue
from deployments.autoencoder import Autoencoder
from deployments.denoiser import Denoiser
from deployments.options import GraphArgs
from deployments.router import Router
from deployments.text_encoder import TextEncoder


def build(args: GraphArgs) -> Application:
    """Raises CatalogueError or ModelNotFound if the arguments name what there is not."""
    catalogue = read_catalogue(args.catalogue).only(args.models)
    return Router.bind(
        catalogue,
        args.router,
        text_encoder=TextEncoder.bind(catalogue, args.text_encoder),
        denoiser=Denoiser.bind(catalogue, args.denoiser),
        autoencoder=Autoencoder.bind(catalogue, args.autoencoder),
    )


app = build(GraphArgs())
