"""Fixtures for all tests: the zoo's models and the small random ones, each loaded once in this process.

pytest-xdist's controller reads this file before its workers start, so torch and diffusers, which take six seconds to
import, are imported inside the fixtures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
# Images and jobs of servers that tests start.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="atelier-data")

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from deployments.environment import ENVIRONMENT
from tests.databases import DATABASES, new_url
from tests.postgres import Postgres, find_programs, postgres

# Clusters of tests are started as the pages say.
os.environ.update(ENVIRONMENT)

if TYPE_CHECKING:
    from atelier.local.stages import LocalStages


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["XDG_DATA_HOME"], ignore_errors=True)


def pytest_collection() -> None:
    import torch

    # With a second team of OpenMP threads in the process the engine's threads sleep between calls, and its steps take
    # twice as long.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    controlnets, annotators, upscalers = ["tiny-canny", "tiny-depth"], ["tiny-depth-anything"], ["tiny-x4"]
    return read_catalogue().only(["tiny-sdxl"], controlnets, annotators, upscalers, None)


@pytest.fixture(scope="session")
def local_stages(catalogue: Catalogue) -> Iterator[LocalStages]:
    # Two processes run tests at once. Teams of two threads each would wait for each other at every operation.
    yield from _stages(catalogue, num_threads=1)


@pytest.fixture(scope="session")
def small_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The small random models of tests/small_models.py."""
    from tests.small_models import write_small_catalogue

    return write_small_catalogue(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def two_families(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The small random models, and beside them those of tests/small_sd15.py."""
    from tests.small_sd15 import with_small_sd15

    return with_small_sd15(small_catalogue, tmp_path_factory.mktemp("small-sd15"))


@pytest.fixture(scope="session")
def edit_catalogue(two_families: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The small random models, and those of tests/small_edits.py, which edit by instructions."""
    from tests.small_edits import with_small_edits

    return with_small_edits(two_families, tmp_path_factory.mktemp("small-edits"))


@pytest.fixture(scope="session")
def small_stages(small_catalogue: Catalogue) -> Iterator[LocalStages]:
    """The stages of the small random models."""
    # Operations this small gain nothing from a second thread, which spins while it waits for the first.
    yield from _stages(small_catalogue, num_threads=1)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole session."""
    programs = find_programs()
    assert programs is not None, "tests that ask for it are skipped where there is none"
    with postgres(programs) as server:
        yield server


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of an empty database."""
    return new_url(request.param, tmp_path_factory, lambda: request.getfixturevalue("postgres_server"))


def _stages(catalogue: Catalogue, **settings: int) -> Iterator[LocalStages]:
    from atelier.local.stages import DEFAULT_SETTINGS, LocalStages

    # Calls of `exact` requests with four rows instead of eight take half the time.
    stages = LocalStages(catalogue, settings=replace(DEFAULT_SETTINGS, exact_width=4, **settings))
    yield stages
    stages.close()
