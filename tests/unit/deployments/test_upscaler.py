"""Batching of images in an Upscaler replica, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.geometry import Size
from atelier.core.sampling import Reproducibility
from atelier.models.upscaler import Upscalers, UpscaleTask
from atelier.pipeline.stages import Pixels
from deployments.options import UpscalerOptions
from deployments.upscaler import Upscaler


@pytest.fixture
def num_tasks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in every call of the upscalers."""
    upscale = Upscalers.upscale
    recorded: list[int] = []

    def recording(self: Upscalers, tasks: Sequence[UpscaleTask]) -> Generator[None, None, list[tuple[Pixels, str]]]:
        recorded.append(len(tasks))
        return upscale(self, tasks)

    replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100))
    monkeypatch.setattr(serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(Upscalers, "upscale", recording)
    return recorded


@pytest.mark.parametrize(
    ("reproducibility", "side_px", "expected"),
    [("fast", 64, [4]), ("exact", 64, [1, 1, 1, 1]), pytest.param("fast", 300, [1, 1, 1, 1], marks=pytest.mark.slow)],
)
async def test_small_images_are_upscaled_together_except_exact_ones(
    small_catalogue: Catalogue,
    num_tasks: list[int],
    reproducibility: Reproducibility,
    side_px: int,
    expected: list[int],
) -> None:
    upscaler = Upscaler(small_catalogue, UpscalerOptions(num_threads=1))
    images = [np.full((side_px, side_px, 3), 50 * index, dtype=np.uint8) for index in range(4)]
    async with asyncio.timeout(20):
        results = await asyncio.gather(
            *(upscaler.upscale("tiny-x4", image, Size(width=96, height=80), reproducibility) for image in images)
        )
    assert num_tasks == expected
    for image, upscaled in zip(images, results, strict=True):
        assert upscaled.pixels.shape == (80, 96, 3)
        assert np.abs(upscaled.pixels.mean(axis=(0, 1)) - image[0, 0]).max() < 8
        assert set(upscaled.origin.weights) == {"tiny-x4"}
