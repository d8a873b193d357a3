from __future__ import annotations

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.families import FAMILIES, FamilyName
from atelier.core.conditioning import Text
from atelier.families.family import family_of
from atelier.models.host import ModelHost
from tests.small_models import CPU


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_the_catalogue_exists(name: FamilyName) -> None:
    assert callable(family_of(name).encode_half)


def test_family_loads_text_encoders(small_catalogue: Catalogue) -> None:
    entry = small_catalogue.model(None)
    encoders = family_of(entry.family).load_text_encoders(entry, CPU, ModelHost(CPU))
    encoders.check_length(Text("a red circle", "a red circle"))
    [embeds] = encoders.encode([Text("a red circle", "a red circle")])
    assert embeds.num_tokens > 0
    assert len(encoders.weights_hash) == 16
