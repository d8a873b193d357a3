from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from atelier.core.origin import ExactnessKey, Origin
from atelier.pipeline.provenance import Provenance


@dataclass(frozen=True)
class _Answer:
    origin: Origin


def _key(origins: Sequence[Origin]) -> ExactnessKey:
    provenance = Provenance()
    provenance.record(*map(_Answer, origins))
    return provenance.exactness_key


def test_exactness_key_depends_on_places_and_weights() -> None:
    origins = [
        [Origin("here", {"a": "1"}), Origin("here")],
        [Origin("here"), Origin("here", {"a": "1"})],
        [Origin("here", {"a": "2"}), Origin("here")],
        [Origin("there", {"a": "1"}), Origin("here")],
    ]
    assert len({_key(of_request) for of_request in origins}) == 4
    assert _key([Origin("x"), Origin("x")]) == _key([Origin("x")])
    assert _key([Origin("x", {"a": "1", "b": "2"})]) == _key([Origin("x", {"b": "2", "a": "1"})])


def test_weights_of_all_stages_are_kept_by_name() -> None:
    provenance = Provenance()
    provenance.record(_Answer(Origin("x", {"unet": "1"})), None, _Answer(Origin("y", {"vae": "2"})))
    assert provenance.weights == {"unet": "1", "vae": "2"}
