"""Which UNets and ControlNets are SDXL's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atelier.families.unet import attention

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel


def install(model: UNet2DConditionModel | ControlNetModel) -> None:
    """Prepare a model, in place, for packed rows (images with one prompt each).

    Raises ValueError if the model does not read size, crop and a pooled prompt, or if its attention is not plain.
    """
    added = model.config.addition_embed_type
    if added != "text_time":
        raise ValueError(f"its addition_embed_type is {added!r}; SDXL's is 'text_time'")
    attention.install(model)
