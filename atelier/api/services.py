"""The services of the application, as FastAPI dependencies of its routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from atelier.api.request_id import request_id_of
from atelier.core.denoising import RequestId
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore

#: Name of the route that serves stored files.
FILE_ROUTE = "picture_file"


@dataclass(frozen=True, slots=True)
class Services:
    """The pipeline and the store behind all routes of an application."""

    pipeline: Pipeline
    blobs: BlobStore


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _pipeline(request: Request) -> Pipeline:
    return _services(request).pipeline


def _blobs(request: Request) -> BlobStore:
    return _services(request).blobs


def _delivery(request: Request) -> Delivery:
    return Delivery(_blobs(request), lambda name: str(request.url_for(FILE_ROUTE, name=name)))


def _request_id(request: Request) -> RequestId:
    return request_id_of(request.scope)


UsedPipeline = Annotated[Pipeline, Depends(_pipeline)]
UsedBlobs = Annotated[BlobStore, Depends(_blobs)]
UsedDelivery = Annotated[Delivery, Depends(_delivery)]
GivenRequestId = Annotated[RequestId, Depends(_request_id)]
