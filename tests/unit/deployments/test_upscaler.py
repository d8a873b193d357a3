"""Which pictures an Upscaler replica enlarges together; without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.sampling import Reproducibility
from atelier.models.upscaler import Enlargement
from atelier.pipeline.stages import Pixels
from deployments.options import UpscalerOptions
from deployments.upscaler import Upscaler


@pytest.mark.parametrize(
    ("reproducibility", "side_px", "together"),
    [("fast", 64, [4]), ("exact", 64, [1, 1, 1, 1]), ("fast", 400, [1, 1, 1, 1])],
)
async def test_small_pictures_are_enlarged_together_but_for_exact_ones(
    catalogue: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
    reproducibility: Reproducibility,
    side_px: int,
    together: list[int],
) -> None:
    in_a_replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100))
    monkeypatch.setattr(serve, "get_replica_context", lambda: in_a_replica)
    upscaler = Upscaler(catalogue, UpscalerOptions(num_threads=1))
    upscale = upscaler._upscalers.upscale
    calls: list[int] = []

    def watched(tasks: Sequence[Enlargement]) -> Generator[None, None, list[tuple[Pixels, str]]]:
        calls.append(len(tasks))
        return upscale(tasks)

    monkeypatch.setattr(upscaler._upscalers, "upscale", watched)
    pictures = [np.full((side_px, side_px, 3), 50 * index, dtype=np.uint8) for index in range(4)]
    async with asyncio.timeout(20):
        answers = await asyncio.gather(
            *(upscaler.upscale("tiny-x4", picture, 96, 80, reproducibility) for picture in pictures)
        )
    assert calls == together
    for picture, answer in zip(pictures, answers, strict=True):
        assert answer.pixels.shape == (80, 96, 3)
        assert np.abs(answer.pixels.mean(axis=(0, 1)) - picture[0, 0]).max() < 8
        assert set(answer.origin.weights) == {"tiny-x4"}
