"""The origin of a stage's answer: where it was made and with which weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

#: Key under which equal `exact` requests return equal bits.
ExactnessKey = NewType("ExactnessKey", str)


@dataclass(frozen=True, slots=True)
class Origin:
    """The place and the models that made one stage's answer."""

    #: Hash of everything that bits depend on besides input and weights: device model, precision, library versions,
    #: threads, rows per call.
    place: str
    #: Hashes of the weights of the models that took part, by name.
    weights: Mapping[str, str] = field(default_factory=dict)
