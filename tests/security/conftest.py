from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore
from tests.stages import RecordingStages


@pytest.fixture
def stages(small_stages: LocalStages) -> RecordingStages:
    """The small model's stages, with a record of their calls."""
    return RecordingStages(small_stages)


@pytest.fixture
async def http(
    stages: RecordingStages, small_catalogue: Catalogue, tmp_path: Path
) -> AsyncIterator[httpx2.AsyncClient]:
    """The HTTP application with the default limit of bodies."""
    pipeline = Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=2_000_000))
    blobs = BlobStore(tmp_path.as_uri(), ttl=timedelta(hours=1))
    app = build_app(pipeline, blobs, max_body_bytes=32_000_000)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
