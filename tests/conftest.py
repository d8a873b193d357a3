"""Fixtures for all tests: the zoo's models and the small random ones, each loaded once in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.local import DEFAULT_SETTINGS, LocalStages
from tests.small_models import small_catalogue as small_catalogue

# With a second team of OpenMP threads in the process the engine's threads sleep between calls, and its steps take
# twice as long.
torch.set_num_threads(1)

#: Calls of `exact` requests with four rows instead of eight take half the time.
_SETTINGS = replace(DEFAULT_SETTINGS, exact_width=4)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return read_catalogue().only(["tiny-sdxl"], ["tiny-canny", "tiny-depth"], ["tiny-depth-anything"], ["tiny-x4"])


@pytest.fixture(scope="session")
def local_stages(catalogue: Catalogue) -> Iterator[LocalStages]:
    stages = LocalStages(catalogue, settings=_SETTINGS)
    yield stages
    stages.close()


@pytest.fixture(scope="session")
def small_stages(small_catalogue: Catalogue) -> Iterator[LocalStages]:
    """The stages of the small random models."""
    # Operations this small gain nothing from a second thread, which spins while it waits for the first.
    stages = LocalStages(small_catalogue, settings=replace(_SETTINGS, num_threads=1))
    yield stages
    stages.close()
