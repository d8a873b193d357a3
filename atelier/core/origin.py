"""The origin of a stage's answer: its placement (device, precision, libraries, threads) and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

#: Hash of weights and placements; equal `exact` requests with equal keys return equal bits.
ExactnessKey = NewType("ExactnessKey", str)


@dataclass(frozen=True, slots=True)
class Origin:
    """The placement (device, precision, libraries, threads) and models that made one stage's answer."""

    #: Hash of everything that bits depend on besides input and weights: device model, precision, library versions,
    #: threads, rows per call.
    place: str
    #: Hashes of the weights of the models that made the answer, by name.
    weights: Mapping[str, str] = field(default_factory=dict)
