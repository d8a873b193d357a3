"""Record of the placements and weights that made a request's images, collected as its stages answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Protocol

from atelier.core.origin import ExactnessKey, Origin


class _Answer(Protocol):
    @property
    def origin(self) -> Origin: ...


class Provenance:
    """The origins (placement and weights) of all stage answers of one request, in the order of the stages."""

    def __init__(self, origins: Iterable[Origin] = ()) -> None:
        self._origins = list(origins)

    def record(self, *answers: _Answer | None) -> None:
        """Record the origin of each stage's answer; pass None for a stage that the request did not use."""
        self._origins += [answer.origin for answer in answers if answer is not None]

    @property
    def origins(self) -> tuple[Origin, ...]:
        """All origins, in the order in which they were recorded."""
        return tuple(self._origins)

    @property
    def exactness_key(self) -> ExactnessKey:
        """Hash of the placements and weights of all stages that contributed; equal origins count once."""
        origins = dict.fromkeys(
            json.dumps([origin.place, sorted(origin.weights.items())]) for origin in self._origins
        )
        return ExactnessKey(hashlib.sha256("".join(origins).encode()).hexdigest()[:16])

    @property
    def weights(self) -> dict[str, str]:
        """Hashes of the weights of all models that contributed to the images, by name."""
        return {name: digest for origin in self._origins for name, digest in origin.weights.items()}
