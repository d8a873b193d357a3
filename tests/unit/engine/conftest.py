"""What tests of the engine's loop share: a request, a clock that they move, and the reports of steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, Text
from atelier.core.denoising import DenoiseRequest
from atelier.engine.engine import StepReport
from atelier.families.sdxl.text import TextEncoders
from tests.engines import Clock
from tests.small_models import CPU
from tests.unit.engine.requests import new_request


@pytest.fixture(scope="session")
def request_(small_catalogue: Catalogue) -> DenoiseRequest:
    """A request with embeddings of the small model."""
    embeds = TextEncoders(small_catalogue.model(None), CPU).encode([Text("a red circle", "a red circle")])[0]
    return replace(new_request(), conditioning=Conditioning(positive=embeds, negative=None))


@pytest.fixture
def reports() -> list[StepReport]:
    """The reports of all steps, if the engine's `observe` appends them."""
    return []


@pytest.fixture
def clock() -> Clock:
    return Clock()
