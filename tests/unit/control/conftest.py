"""The small ControlNets, loaded once for all tests of this folder."""

from __future__ import annotations

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.control.controlnets import ControlNets
from atelier.models.host import ModelHost
from tests.small_models import CPU


@pytest.fixture(scope="package")
def controlnets(small_catalogue: Catalogue) -> ControlNets:
    return ControlNets(small_catalogue, CPU, ModelHost(CPU))
