from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import openai
import pytest
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.stages import RecordingStages
from tests.unit.api.job_server import JobServer, job_server

MAX_BODY_BYTES = 100_000
MAX_PIXEL_STEPS = 2_000_000


@pytest.fixture
def pipeline(stages: RecordingStages, small_catalogue: Catalogue) -> Pipeline:
    return Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=MAX_PIXEL_STEPS))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1))


@pytest.fixture
async def server(pipeline: Pipeline, tmp_path: Path) -> AsyncIterator[JobServer]:
    """An application that takes jobs; a module that uses it makes `app` the one of `server`."""
    async with job_server(pipeline, tmp_path) as server:
        yield server


@pytest.fixture
def app(pipeline: Pipeline, blobs: BlobStore) -> ASGIApp:
    """The whole HTTP application over the small model, in this process."""
    return build_app(pipeline, blobs, max_body_bytes=MAX_BODY_BYTES)


@asynccontextmanager
async def _client_of(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def http(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    async with _client_of(app) as client:
        yield client


@pytest.fixture
def client(http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """OpenAI's official client, connected to the application in this process."""
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)


@pytest.fixture
async def zoo_http(
    local_stages: LocalStages, catalogue: Catalogue, blobs: BlobStore
) -> AsyncIterator[httpx2.AsyncClient]:
    """The application over the zoo's models, for tests that judge what an image shows."""
    pipeline = Pipeline(local_stages, catalogue, PipelineLimits(max_pixel_steps=MAX_PIXEL_STEPS))
    async with _client_of(build_app(pipeline, blobs, max_body_bytes=MAX_BODY_BYTES)) as client:
        yield client


@pytest.fixture
def zoo_client(zoo_http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=zoo_http, max_retries=0)
