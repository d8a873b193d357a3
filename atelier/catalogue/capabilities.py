"""What a model of this server can do: its family, and the ControlNets and LoRAs that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.loras import Loras
from atelier.core.errors import NotSupported

Capability = Literal["text_to_image", "image_to_image", "inpaint", "control", "lora", "edit", "previews"]

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


@dataclass(frozen=True, slots=True)
class Supported:
    """The capabilities of one model; requests for anything else are refused."""

    model: str
    by_name: Mapping[Capability, bool]

    @classmethod
    def of(cls, model: ModelEntry, catalogue: Catalogue, loras: Loras) -> Supported:
        """Return what a model can do with the ControlNets of the catalogue and these LoRAs.

        Models of every family draw from text, from images and behind masks, unless they edit by instructions. Those
        have UNets with more input channels than ControlNets read.
        """
        draws = not model.edits
        can: dict[Capability, bool] = {
            "text_to_image": draws,
            "image_to_image": draws,
            "inpaint": draws,
            "control": draws and bool(catalogue.controlnets_for(model.id)),
            "lora": any(entry.goes_with(model) for entry in loras.by_id.values()),
            "edit": model.edits,
            "previews": model.has_previews,
        }
        return cls(model.id, can)

    def check(self, needed: Capability, *, param: str) -> None:
        """Raise NotSupported, which names the field, the model and what it can do, if it cannot do what is needed."""
        if not self.by_name[needed]:
            can = ", ".join(name for name in CAPABILITIES if self.by_name[name])
            raise NotSupported(f"{param}: {self.model} does not support {needed}; it supports {can}.", param=param)
