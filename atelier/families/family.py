"""The interface that an architecture of diffusion models implements, and the families there are.

The engine and the TextEncoder reach an architecture only through `Family`, so another one is another folder and a
line in `_FAMILIES`. `Conditions`, `PromptConditions` and `Encoded` are SDXL's records; they become type parameters
when a family needs different ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from atelier.catalogue.entries import ModelEntry
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.geometry import Size
from atelier.families import sdxl
from atelier.families.sdxl.conditions import Conditions, PromptConditions
from atelier.families.sdxl.unet import Encoded
from atelier.models.loading import Placement

__all__ = ["Conditions", "Encoded", "Family", "PromptConditions", "TextEncoders", "family_of"]


class TextEncoders(Protocol):
    """The text encoders of one model. Not thread-safe: used from one thread."""

    @property
    def weights_hash(self) -> str: ...

    def check_length(self, text: Text) -> None:
        """Raise InvalidParameter if the text is longer than the encoders read."""
        ...

    def encode(self, texts: Sequence[Text]) -> list[TextEmbeds]:
        """Encode texts in one batch; the embeddings are in the order of the texts."""
        ...


class Family(Protocol):
    """An architecture of diffusion models: its text encoders, conditions, and UNet in two halves."""

    def load_text_encoders(self, entry: ModelEntry, placement: Placement) -> TextEncoders:
        """Load a model's text encoders. Raises ModelUnavailable if files are missing or corrupt."""
        ...

    def install(self, model: UNet2DConditionModel | ControlNetModel) -> None:
        """Prepare a model, in place, for packed rows. Raises ValueError if it is not of this family."""
        ...

    def zero_embeds(self, model: UNet2DConditionModel | ControlNetModel) -> TextEmbeds:
        """Return embeddings of zeros in the model's widths, one chunk long; for warm-up."""
        ...

    def prompt_conditions(
        self, model: UNet2DConditionModel | ControlNetModel, embeds: TextEmbeds, placement: Placement
    ) -> PromptConditions:
        """Prepare a prompt for all steps of a request. Raises ValueError if the embeddings do not fit the model."""
        ...

    def stack(
        self, prompts: Sequence[PromptConditions], sizes: Sequence[Size], *, num_tokens: int | None = None
    ) -> Conditions:
        """Stack prompts into conditions with one row per prompt; row i belongs to an image of `sizes[i]`."""
        ...

    def encode_rows(
        self,
        model: UNet2DConditionModel | ControlNetModel,
        hidden_states: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: Conditions,
    ) -> Encoded:
        """Run the encoder that UNets and ControlNets share, on the output of the first convolution."""
        ...

    def encode_half(
        self, unet: UNet2DConditionModel, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> Encoded:
        """Run the UNet to the end of its middle block, on `model_input` [rows, 4, h, w] at `timesteps` [rows]."""
        ...

    def decode_half(self, unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
        """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
        ...


_FAMILIES: Mapping[str, Family] = {"sdxl": sdxl}


def family_of(name: str) -> Family:
    """Return the family that a catalogue entry names in `family`."""
    return _FAMILIES[name]
