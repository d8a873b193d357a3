"""The state of a request between two steps, from which another replica goes on.

A snapshot holds what changes from step to step. Everything else follows from the request: the schedule, the prompts,
the controls, what a mask keeps, and the noise that has been drawn so far.
"""

from __future__ import annotations

from dataclasses import dataclass

from atelier.core.conditioning import Floats
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility

#: Version of the form; a replica of another version starts the request from its first step.
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A request after `step` steps."""

    step: int
    #: The noisy latents, [images, 4, height / 8, width / 8].
    latents: Floats
    #: Predictions of x₀ in the last step and in the step before it, in the shape of the latents; None if the sampler
    #: does not read them again.
    denoised_1: Floats | None
    denoised_2: Floats | None
    #: Placement and weights of the steps so far.
    origin: Origin
    version: int = VERSION

    def may_be_resumed(self, here: Origin, reproducibility: Reproducibility) -> bool:
        """Return whether a replica with this placement and these weights may go on from here.

        The weights must be the same. So must the placement be for `exact` requests, whose bits depend on it.
        """
        weights = self.origin.weights
        return (
            self.version == VERSION
            and all(weights.get(name) == digest for name, digest in here.weights.items())
            and (reproducibility == "fast" or self.origin.place == here.place)
        )
