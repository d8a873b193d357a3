"""What the families of models differ in for a request, known without loading a model.

How a family's models run is in `atelier.families`, which has a folder for each of these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

FamilyName = Literal["sdxl", "sd15"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyTraits:
    """What a request may have, and what absent fields mean, for all models of a family."""

    #: Whether a second text encoder reads `prompt_2` and `negative_prompt_2`.
    has_second_text_encoder: bool
    #: Negative prompt where neither the request nor the model has one. None stands for embeddings of zeros.
    negative_prompt: str | None


#: As in diffusers' `StableDiffusionXLPipeline` (`force_zeros_for_empty_prompt`) and `StableDiffusionPipeline`.
FAMILIES: Final[Mapping[FamilyName, FamilyTraits]] = {
    "sdxl": FamilyTraits(has_second_text_encoder=True, negative_prompt=None),
    "sd15": FamilyTraits(has_second_text_encoder=False, negative_prompt=""),
}
