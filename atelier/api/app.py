"""The HTTP application: OpenAI's and the server's own routes, the error handlers, and the list of middleware.

Each Router replica builds one when it starts. The routes reach the models through a `Pipeline` only.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from atelier.api import docs
from atelier.api.document import DocumentedApp
from atelier.api.error_handlers import install_error_handlers
from atelier.api.host import Host
from atelier.api.limits import BodyLimit
from atelier.api.native import (
    batches,
    cache,
    data,
    files,
    hub,
    job_watching,
    jobs,
    loras,
    model_memory,
    status,
    system,
    unbuilt,
)
from atelier.api.native import images as native_images
from atelier.api.native.job_answers import ended_job
from atelier.api.openai import images as openai_images
from atelier.api.openai import models
from atelier.api.origins import Origins, origin_of
from atelier.api.request_id import RequestIds
from atelier.api.request_log import RequestLog
from atelier.api.services import ProvideServices, Services
from atelier.api.simple import routes as simple
from atelier.core.jobs import Job, Json
from atelier.core.params.delivery import ResponseFormat
from atelier.hub.hub import Hub
from atelier.jobs.counts import JobCounts
from atelier.jobs.service import JobService
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import Observe, log_request
from atelier.stores.blobs import BlobStore

_DESCRIPTION = """Stable Diffusion XL as a graph of Ray Serve deployments, with OpenAI's images API.

Point the official `openai` client at `/v1`; fields that OpenAI does not have go into `extra_body`."""


def _build_routes() -> FastAPI:
    routes = DocumentedApp(
        title="Atelier", version=version("atelier"), description=_DESCRIPTION, docs_url=None, redoc_url=None
    )
    # The first version that can describe a stream of events.
    routes.openapi_version = "3.2.0"
    install_error_handlers(routes)
    for router in (
        openai_images.router,
        native_images.router,
        files.router,
        jobs.router,
        job_watching.router,
        batches.router,
        cache.router,
        data.router,
        model_memory.router,
        models.router,
        loras.router,
        hub.router,
        status.router,
        simple.router,
        system.router,
        unbuilt.router,
        docs.router,
    ):
        routes.include_router(router)
    return routes


#: All routes and error handlers, built once in a process; the middleware gives each application its services.
_ROUTES = _build_routes()


def path_of(route: str, /, **parts: str) -> str:
    """Return the path of a route below the prefix, by its name and the parts of its path."""
    return str(_ROUTES.url_path_for(route, **parts))


def webhook_fields(job: Job, base_url: str) -> Json:
    """Return the fields of a job that has ended, as its webhook has them; addresses begin with `base_url`."""
    return ended_job(job, lambda route, /, **parts: f"{base_url}{path_of(route, **parts)}")


def build_app(
    pipeline: Pipeline,
    blobs: BlobStore,
    job_service: JobService | None = None,
    *,
    max_body_bytes: int,
    default_response_format: ResponseFormat | None = None,
    public_url: str | None = None,
    allowed_origins: Collection[str] = (),
    returns_request_id: bool = True,
    observe: Observe = log_request,
    host: Host | None = None,
    model_hub: Hub | None = None,
) -> ASGIApp:
    """Build the application that serves `pipeline`, `blobs` and, if there are any, `job_service` and `model_hub`.

    It rejects bodies of more than `max_body_bytes`. Images are returned in `default_response_format` to clients that
    name none; if it is None, as OpenAI does it. URLs in answers begin with `public_url` or, if that is None, with
    the address that the client used. Web pages may call it from this machine, `public_url` and `allowed_origins`.
    `returns_request_id` is False behind Ray Serve's proxy, which adds `x-request-id` to every answer itself.
    `observe` receives the record of every request when it has ended. `host` counts the uptime; by default it begins
    now.
    """
    services = Services(
        pipeline,
        blobs,
        job_service,
        default_response_format,
        public_url,
        host or Host(),
        None if job_service is None else JobCounts(job_service.jobs),
        model_hub,
    )
    origins = [*allowed_origins, *([] if public_url is None else [origin_of(public_url)])]
    # Outermost first. Wrapped around FastAPI, not added to it, so that its 500 responses have a request id, too.
    middleware = [
        Middleware(RequestIds, returns_id=returns_request_id),
        Middleware(RequestLog, observe=observe),
        Middleware(Origins, allowed=origins),
        Middleware(BodyLimit, max_bytes=max_body_bytes),
        Middleware(ProvideServices, services=services),
    ]
    served: ASGIApp = _ROUTES
    for layer, args, kwargs in reversed(middleware):
        served = layer(served, *args, **kwargs)
    return served
