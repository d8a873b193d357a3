"""The HTTP application: one FastAPI app made of the dialects' routes, our errors and our limits.

Made when a router starts, from a pipeline: nothing here knows where the stages run.
"""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from atelier.api.errors import install_error_handlers
from atelier.api.limits import BodyLimit
from atelier.api.native.routes import native_routes
from atelier.api.native.unbuilt import unbuilt_routes
from atelier.api.openai.routes import openai_routes
from atelier.api.request_id import RequestIds
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore

_DESCRIPTION = """Stable Diffusion XL as a graph of Ray Serve deployments, with OpenAI's images API.

Point the official `openai` client at `/v1`; fields that OpenAI does not have go into `extra_body`."""


def build_app(pipeline: Pipeline, blobs: BlobStore, *, max_body_bytes: int) -> ASGIApp:
    app = FastAPI(title="Atelier", version=version("atelier"), description=_DESCRIPTION, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    install_error_handlers(app)
    app.include_router(openai_routes(pipeline, blobs))
    app.include_router(native_routes(pipeline))
    app.include_router(unbuilt_routes())
    return RequestIds(app)
