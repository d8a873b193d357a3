"""The services of the application, as FastAPI dependencies of its routes.

They are coroutines: FastAPI runs functions in threads, which took most of the Router's time with 2,000 clients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier.api.host import Host
from atelier.api.idempotency import GivenKey
from atelier.api.prefix import with_prefix
from atelier.api.request_log import record_of
from atelier.core.errors import NotSupported
from atelier.core.params import GenerateParams
from atelier.core.params.delivery import ResponseFormat
from atelier.hub.hub import Hub
from atelier.jobs.counts import JobCounts
from atelier.jobs.service import JobService
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord
from atelier.stores.blobs import BlobStore

#: Name of the route that serves stored files.
FILE_ROUTE = "picture_file"
#: Name of the route that serves files of jobs.
JOB_FILE_ROUTE = "job_file"

_SERVICES = "atelier.services"
#: Schemes of the addresses for clients of WebSockets.
_SCHEMES = {"ws": "http", "wss": "https"}


class UrlOf(Protocol):
    """Returns a client's URL of a route, by its name and the parts of its path."""

    def __call__(self, route: str, /, **parts: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The pipeline and the stores behind all routes of an application."""

    pipeline: Pipeline
    blobs: BlobStore
    #: None if this application takes no jobs.
    jobs: JobService | None = None
    #: How images are returned to clients that do not say it; None for OpenAI's defaults.
    default_response_format: ResponseFormat | None = None
    #: Address of this application for clients, with its route prefix; None for the one that each client uses.
    public_url: str | None = None
    host: Host = field(default_factory=Host)
    #: None if this application takes no jobs.
    job_counts: JobCounts | None = None
    #: None if this application downloads no models.
    hub: Hub | None = None


class ProvideServices:
    """Middleware that gives the routes' dependencies the services of this application."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app, self._services = app, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SERVICES] = self._services
        await self._app(scope, receive, send)


def _services(request: HTTPConnection) -> Services:
    services: Services = request.scope[_SERVICES]
    return services


async def _pipeline(request: HTTPConnection) -> Pipeline:
    return _services(request).pipeline


async def _blobs(request: HTTPConnection) -> BlobStore:
    return _services(request).blobs


async def _jobs(request: HTTPConnection) -> JobService:
    jobs = _services(request).jobs
    if jobs is None:
        raise NotSupported("This server takes no jobs; use the routes under /v1/images.")
    return jobs


async def _host(request: HTTPConnection) -> Host:
    return _services(request).host


async def _job_counts(request: HTTPConnection) -> JobCounts | None:
    return _services(request).job_counts


async def _hub(request: HTTPConnection) -> Hub:
    hub = _services(request).hub
    if hub is None:
        raise NotSupported("This server does not use the model hub.")
    return hub


async def _urls(request: HTTPConnection) -> UrlOf:
    public_url = _services(request).public_url

    def url_of(route: str, /, **parts: str) -> str:
        path = request.app.url_path_for(route, **parts)
        if public_url is not None:
            return f"{public_url.rstrip('/')}{path}"
        # Not `url_for`, which looks the route up in the outermost of several applications.
        scheme = _SCHEMES.get(request.url.scheme, request.url.scheme)
        return str(request.url.replace(scheme=scheme, path=with_prefix(request, path), query=""))

    return url_of


async def _delivery(request: HTTPConnection) -> Delivery:
    url_of = await _urls(request)
    return Delivery(_services(request).blobs, lambda name: url_of(FILE_ROUTE, name=name))


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request for generated images: its record, and the services that answer it."""

    record: RequestRecord
    pipeline: Pipeline
    delivery: Delivery
    default_response_format: ResponseFormat | None
    idempotency_key: str | None

    async def settled(self, params: GenerateParams) -> GenerateParams:
        """Return params with the seed of the first request with this key, if there is a key.

        Raises IdempotencyConflict if that was another request, and JobsUnavailable.
        """
        if self.idempotency_key is None:
            return params
        if self.pipeline.cache is None:
            raise NotSupported("This server keeps no results; leave out the Idempotency-Key.")
        return await self.pipeline.cache.with_key(params, self.idempotency_key)


async def _call(request: HTTPConnection, idempotency_key: GivenKey) -> Call:
    services = _services(request)
    return Call(
        record_of(request.scope),
        services.pipeline,
        await _delivery(request),
        services.default_response_format,
        idempotency_key,
    )


UsedJobs = Annotated[JobService, Depends(_jobs)]
UsedHost = Annotated[Host, Depends(_host)]
UsedJobCounts = Annotated[JobCounts | None, Depends(_job_counts)]
UsedHub = Annotated[Hub, Depends(_hub)]
UsedUrls = Annotated[UrlOf, Depends(_urls)]
UsedPipeline = Annotated[Pipeline, Depends(_pipeline)]
UsedBlobs = Annotated[BlobStore, Depends(_blobs)]
UsedDelivery = Annotated[Delivery, Depends(_delivery)]
GivenCall = Annotated[Call, Depends(_call)]
