"""LoRAs, as a request names them: small sets of weights that change a model for one request."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

MAX_LORAS = 8
MAX_LORA_WEIGHT = 4.0
LoraWeight = Annotated[float, Field(ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, order=True)
class Lora:
    """A LoRA of the catalogue, and how strongly it acts."""

    #: Id in the catalogue.
    id: str
    #: Factor on the LoRA's change of the model, −4 … 4; 1 acts as trained.
    weight: float

    def __post_init__(self) -> None:
        if not abs(self.weight) <= MAX_LORA_WEIGHT or math.isnan(self.weight):
            raise ValueError(f"the weight {self.weight} of {self.id} is not within ±{MAX_LORA_WEIGHT}")


def in_order(loras: Iterable[Lora]) -> tuple[Lora, ...]:
    """Return the LoRAs that act, in the order in which the engine adds them.

    The order is by id, because the rounding of a sum depends on it. A LoRA of weight 0 is left out: its images are
    those without it.
    """
    return tuple(sorted(lora for lora in loras if lora.weight != 0))
