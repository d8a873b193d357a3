from __future__ import annotations

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.stages import RecordingStages


@pytest.fixture
def stages(small_stages: LocalStages) -> RecordingStages:
    """The small model's stages, with a record of their calls."""
    return RecordingStages(small_stages)


@pytest.fixture
def pipeline(stages: RecordingStages, small_catalogue: Catalogue) -> Pipeline:
    return Pipeline(stages, small_catalogue, PipelineLimits(max_pixel_steps=1_000_000))
