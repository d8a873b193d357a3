"""The interface that a family (an architecture of diffusion models) implements, and the table of all families.

The engine and the TextEncoder reach an architecture only through `Family`, so a new one needs only its own folder and
a line in `_FAMILIES`; docs/adding-a-model.md has the steps. `Conditions`, `PromptConditions`, `ConditionSlots` and
`Encoded` are those of diffusers' UNet, in `families.unet`; they become type parameters when a family needs different
ones. Importing a family does not import diffusers, because the TextEncoder needs none of it and it takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.families import FamilyName
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.geometry import Size
from atelier.families import sd15, sdxl
from atelier.families.unet.adapters.adapter import Adapter, Layers, WeightedAdapter
from atelier.families.unet.adapters.keys import Part
from atelier.families.unet.adapters.loaded import LoadedAdapters
from atelier.families.unet.adapters.rows import Forms, RequestLayers
from atelier.families.unet.attention import NO_ADAPTERS, RequestAdapters
from atelier.families.unet.conditions import Conditions, PromptConditions
from atelier.families.unet.graphs import GraphedUNet
from atelier.families.unet.halves import Encoded
from atelier.families.unet.slots import ConditionSlots
from atelier.families.unet.traced import TracedUNet
from atelier.models.host import ModelHost
from atelier.models.loading import Placement

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

__all__ = [
    "Adapter",
    "ConditionSlots",
    "Conditions",
    "Encoded",
    "Family",
    "Forms",
    "GraphedUNet",
    "LoadedAdapters",
    "Part",
    "PromptConditions",
    "RequestAdapters",
    "TextEncoders",
    "TracedUNet",
    "WeightedAdapter",
    "family_of",
]


class TextEncoders(Protocol):
    """The text encoders of one model. Not thread-safe: used from one thread."""

    @property
    def weights_hash(self) -> str: ...

    def bring(self) -> None:
        """Bring the weights to the device."""
        ...

    def unload(self) -> bool:
        """Take the weights out of memory; return whether they are still there, because they are used."""
        ...

    def check_length(self, text: Text) -> None:
        """Raise InvalidParameter if the text is longer than the encoders read."""
        ...

    @property
    def modules(self) -> Mapping[Part, torch.nn.Module]:
        """The modules that LoRAs change, by the names that they have for them."""
        ...

    def encode(self, texts: Sequence[Text], adapters: Sequence[Sequence[WeightedAdapter]] = ()) -> list[TextEmbeds]:
        """Encode texts in one batch; the embeddings are in the order of the texts.

        `adapters` are the LoRAs of each text with their weights; without them, no text has any.
        """
        ...


class Family(Protocol):
    """An architecture of diffusion models: its text encoders, conditions, and UNet in two halves."""

    def load_text_encoders(self, entry: ModelEntry, placement: Placement, host: ModelHost) -> TextEncoders:
        """Load a model's text encoders into `host`. Raises ModelUnavailable if files are missing or corrupt."""
        ...

    def install(self, model: UNet2DConditionModel | ControlNetModel) -> None:
        """Prepare a model, in place, for packed rows (images with one prompt each).

        Raises ValueError if the model is not of this family.
        """
        ...

    def zero_embeds(self, model: UNet2DConditionModel | ControlNetModel) -> TextEmbeds:
        """Return all-zero embeddings of one chunk (77 tokens), in the widths that the model reads; for warm-up."""
        ...

    def prompt_conditions(
        self,
        model: UNet2DConditionModel | ControlNetModel,
        embeds: TextEmbeds,
        placement: Placement,
        adapters: RequestAdapters = NO_ADAPTERS,
    ) -> PromptConditions:
        """Compute the conditions of a prompt for all steps of a request, with its LoRAs.

        Raises ValueError if the embeddings do not have the widths that the model reads.
        """
        ...

    def stack(
        self, prompts: Sequence[PromptConditions], sizes: Sequence[Size], *, num_tokens: int | None = None
    ) -> Conditions:
        """Stack prompts into conditions with one row per prompt; row i belongs to an image of `sizes[i]`."""
        ...

    def request_adapters(
        self, model: UNet2DConditionModel, adapters: Sequence[tuple[Layers, float]]
    ) -> RequestAdapters:
        """Combine the LoRAs of a request, each with its weight."""
        ...

    def forms(self, layers: RequestLayers) -> Forms:
        """Return the forms of a request's changes, which its slots are read by."""
        ...

    def new_slots(self) -> ConditionSlots:
        """Return buffers for the conditions of a batch's rows, without any slot."""
        ...

    def encode_rows(
        self,
        model: UNet2DConditionModel | ControlNetModel,
        hidden_states: torch.Tensor,
        timesteps: torch.Tensor,
        conditions: Conditions,
    ) -> Encoded:
        """Run the down blocks and the middle block of a UNet or a ControlNet.

        `hidden_states` [rows, channels, h, w] are the output of the first convolution; `timesteps` are [rows].
        """
        ...

    def block_names(self, unet: UNet2DConditionModel) -> list[str]:
        """Return the names of the submodules that hold all weights, in the order in which the halves run them."""
        ...

    def trace(self, unet: UNet2DConditionModel, placement: Placement) -> TracedUNet:
        """Return the two halves of an installed UNet as programs that run on the CPU without Python."""
        ...

    def graph(self, unet: UNet2DConditionModel, num_arrivals: Callable[[], int]) -> GraphedUNet:
        """Return an installed UNet on a GPU that runs as CUDA graphs.

        `num_arrivals` returns how often its weights have come to the device.
        """
        ...

    def example_conditions(self, model: UNet2DConditionModel | ControlNetModel, placement: Placement) -> Conditions:
        """Return conditions of a few rows with prompts of one chunk, for an installed model."""
        ...

    def encode_half(
        self, unet: UNet2DConditionModel, model_input: torch.Tensor, timesteps: torch.Tensor, conditions: Conditions
    ) -> Encoded:
        """Run the UNet to the end of its middle block, on `model_input` [rows, 4, h, w] at `timesteps` [rows]."""
        ...

    def decode_half(self, unet: UNet2DConditionModel, encoded: Encoded, conditions: Conditions) -> torch.Tensor:
        """Run the UNet from its middle block to `noise_pred`, [rows, 4, h, w]."""
        ...


_FAMILIES: Mapping[FamilyName, Family] = {"sdxl": sdxl, "sd15": sd15}


def family_of(name: FamilyName) -> Family:
    """Return the family that a catalogue entry names in `family`."""
    return _FAMILIES[name]
