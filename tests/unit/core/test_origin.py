from __future__ import annotations

from atelier.core.origin import Origin


def test_a_stage_without_weights_has_an_origin_of_its_own() -> None:
    first, second = Origin("here"), Origin("here")
    assert (first.place, first.weights) == ("here", {})
    assert first.weights is not second.weights
    assert first == second != Origin("here", {"unet": "hash"})
