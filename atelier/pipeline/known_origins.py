"""What the stages of the graph would make images with now: their placements and weights, asked for now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from atelier.core.fresh import Fresh
from atelier.core.origin import Origin
from atelier.core.params import GenerateParams
from atelier.pipeline.stages import ModelStage, Stages

#: Seconds after which a stage is asked again. An update changes what replicas hold at any time.
_MAX_AGE_S = 30.0
_TIMEOUT_S = 2.0


class KnownOrigins:
    """The origins that the stages have told, one replica for each stage."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._told: dict[ModelStage, Fresh[Origin]] = {}

    async def of(self, names: Sequence[ModelStage]) -> list[Origin]:
        """Return the origins of these stages, up to 30 s old.

        Raises the errors of the stages, and TimeoutError if one does not answer within two seconds.
        """
        for name in names:
            if name not in self._told:
                self._told[name] = Fresh(partial(self._stages.origin, name), max_age_s=_MAX_AGE_S)
        return list(await asyncio.gather(*(self._told[name].get(timeout_s=_TIMEOUT_S) for name in names)))

    def forget(self) -> None:
        """Ask all stages again when they are needed next."""
        self._told.clear()


def stages_of(params: GenerateParams) -> list[ModelStage]:
    """Return the stages that a request calls."""
    names: list[ModelStage] = ["text_encoder", "denoiser", "autoencoder"]
    if any(control.annotate for control in params.controls):
        names.append("annotator")
    if params.hires is not None or params.upscale is not None:
        names.append("upscaler")
    return names


def are_among(made_by: Sequence[Origin], known: Sequence[Origin], *, loras: Collection[str]) -> bool:
    """Return whether images were made with these placements and weights, apart from the weights of `loras`."""
    places = {origin.place for origin in known}
    weights = {item for origin in known for item in origin.weights.items()}
    return all(
        origin.place in places
        and all(item in weights or item[0].rpartition("/")[0] in loras for item in origin.weights.items())
        for origin in made_by
    )
