"""Params for the LoRAs of a generation."""

from __future__ import annotations

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from atelier.core.adapters import LoraWeight
from atelier.core.params.parsing import MAX_NAME_CHARS, Params


class LoraParams(Params):
    """One LoRA of a generation: its id and its weight."""

    model: str | None = Field(None, max_length=MAX_NAME_CHARS, description="Id of a LoRA from GET /v1/loras.")
    name: str | None = Field(
        None, max_length=MAX_NAME_CHARS, description="The same as model, for clients that send this name."
    )
    weight: LoraWeight | None = Field(
        None, description="How strongly it acts; 1 acts as trained. The LoRA's own default if absent."
    )

    @model_validator(mode="after")
    def _has_one_name(self) -> LoraParams:
        if (self.model is None) == (self.name is None):
            raise PydanticCustomError("which", "give either model or name")
        return self
