"""One world for all tests: the zoo's model, once in this process and once on one Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from tests.local_stages import LocalStages

# A second team of OpenMP threads in the process makes the engine's wait asleep: its steps take twice as long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return read_catalogue().only(["tiny-sdxl"], ["tiny-canny", "tiny-depth"], ["tiny-depth-anything"], ["tiny-x4"])


@pytest.fixture(scope="session")
def local_stages(catalogue: Catalogue) -> Iterator[LocalStages]:
    stages = LocalStages(catalogue)
    yield stages
    stages.close()
