from __future__ import annotations

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.families.unet.adapters.keys import Part
from atelier.models.loading import load_text_encoders, load_unet
from tests.small_models import CPU


@pytest.fixture
def modules(small_catalogue: Catalogue) -> dict[Part, torch.nn.Module]:
    """The UNet and both text encoders of the small model."""
    entry = small_catalogue.model(None)
    encoder, encoder_2 = load_text_encoders(entry, CPU)
    return {"unet": load_unet(entry, CPU), "text_encoder": encoder, "text_encoder_2": encoder_2}
