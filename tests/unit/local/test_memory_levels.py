"""Text encoders and VAEs at the memory levels above `none`: on the device during their calls only."""

from __future__ import annotations

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Text
from atelier.families.sdxl.text import TextEncoders
from atelier.models.autoencoder import Autoencoder
from atelier.models.host import ModelHost
from atelier.models.loading import Placement
from atelier.models.memory import Memory, MemoryLevel
from tests.small_models import CPU

_TEXTS = [Text("a red circle", "a red circle")]
_LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)


@pytest.mark.parametrize(("level", "leaves"), [("none", False), ("balanced", True), ("sequential", True)])
def test_text_encoders_and_vaes_leave_after_each_call(
    small_catalogue: Catalogue, level: MemoryLevel, leaves: bool
) -> None:
    entry = small_catalogue.model(None)
    placement = Placement("cpu", "float32", Memory(level=level, host_bytes=2**30))
    host = ModelHost(placement)
    encoders, autoencoder = TextEncoders(entry, placement, host), Autoencoder(entry, placement, host)
    for _ in range(2):
        [embeds] = encoders.encode(_TEXTS)
        pixels = autoencoder.decode_latents(_LATENTS)
    [expected] = TextEncoders(entry, CPU).encode(_TEXTS)
    assert np.array_equal(embeds.prompt_embeds, expected.prompt_embeds)
    assert np.array_equal(pixels, Autoencoder(entry, CPU).decode_latents(_LATENTS))
    status = host.status()
    names = ("small-sdxl/text_encoders", "small-sdxl/vae")
    assert status.resident == (() if leaves else names)
    assert (status.host_bytes > 0) == leaves
    assert status.num_loaded == 2, "they come back from their copies"
