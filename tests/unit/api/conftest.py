from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from starlette.types import ASGIApp

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.local import LocalStages
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore

MAX_BODY_BYTES = 100_000


@pytest.fixture
def local_pipeline(local_stages: LocalStages, catalogue: Catalogue) -> Pipeline:
    return Pipeline(local_stages, catalogue, max_pixel_steps=5_000_000)


@pytest.fixture
def app(local_pipeline: Pipeline, tmp_path: Path) -> ASGIApp:
    """The whole HTTP application, over stages in this process."""
    blobs = BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1))
    return build_app(local_pipeline, blobs, max_body_bytes=MAX_BODY_BYTES)


@pytest.fixture
async def http(app: ASGIApp) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
