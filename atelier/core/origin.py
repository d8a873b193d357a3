"""What made an answer: on what, and with which weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NewType

#: An `exact` request comes out the same to the bit where this is the same.
ExactnessKey = NewType("ExactnessKey", str)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stage made its answer, and by which models."""

    #: A hash of all that bits depend on besides input and weights: device, precision, libraries,
    #: threads, rows of a call.
    place: str
    #: By the names of the models that took part, hashes of their weights.
    weights: Mapping[str, str] = field(default_factory=dict)


def exactness_key(origins: Sequence[Origin]) -> ExactnessKey:
    """One key for all stages that a request went through, however often."""
    told = dict.fromkeys(json.dumps([origin.place, sorted(origin.weights.items())]) for origin in origins)
    return ExactnessKey(hashlib.sha256("".join(told).encode()).hexdigest()[:16])


def weights(origins: Sequence[Origin]) -> dict[str, str]:
    """Of all models that took part in any stage."""
    return {name: digest for origin in origins for name, digest in origin.weights.items()}
