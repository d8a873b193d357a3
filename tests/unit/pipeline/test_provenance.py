from __future__ import annotations

from dataclasses import dataclass

from atelier.core.origin import Origin
from atelier.pipeline.provenance import Provenance


@dataclass(frozen=True)
class _Answer:
    origin: Origin


def _provenance(*origins: Origin | None) -> Provenance:
    provenance = Provenance()
    provenance.record(*(None if origin is None else _Answer(origin) for origin in origins))
    return provenance


_TEXTS = Origin("here", {"text": "1"})
_UNET = Origin("there", {"unet": "2", "net": "3"})


def test_weights_of_all_stages_are_kept_by_name() -> None:
    assert _provenance(_TEXTS, None, _UNET).weights == {"text": "1", "unet": "2", "net": "3"}
    assert _provenance().weights == {}


def test_the_exactness_key_is_sixteen_hexadecimal_digits() -> None:
    """The expected key is a literal, because clients compare keys with those that an earlier server wrote."""
    assert _provenance(_TEXTS, _UNET).exactness_key == "128f6d7f68a7b07a"


def test_repeated_answers_of_a_stage_count_once() -> None:
    key = _provenance(_TEXTS, _UNET).exactness_key
    assert _provenance(_TEXTS, _UNET, _TEXTS, _UNET).exactness_key == key
    assert _provenance(_TEXTS, None, _UNET).exactness_key == key


def test_the_order_of_weights_within_a_stage_does_not_count() -> None:
    turned = Origin("there", {"net": "3", "unet": "2"})
    assert _provenance(turned).exactness_key == _provenance(_UNET).exactness_key


def test_another_place_weight_or_name_is_another_key() -> None:
    keys = {
        _provenance(origin).exactness_key
        for origin in (
            Origin("here", {"unet": "1"}),
            Origin("there", {"unet": "1"}),
            Origin("here", {"unet": "2"}),
            Origin("here", {"net": "1"}),
            Origin("here"),
        )
    }
    assert len(keys) == 5


def test_answers_are_recorded_one_after_another() -> None:
    provenance = _provenance(_TEXTS)
    before = provenance.exactness_key
    provenance.record(_Answer(_UNET))
    assert provenance.exactness_key != before
    assert provenance.exactness_key == _provenance(_TEXTS, _UNET).exactness_key
