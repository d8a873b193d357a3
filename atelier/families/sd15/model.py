"""Which UNets and ControlNets are Stable Diffusion 1.5's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atelier.families.unet import attention

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

#: Settings of diffusers under which a model reads latents, a timestep and a prompt, and nothing else.
_CONFIG = {"addition_embed_type": None, "class_embed_type": None, "encoder_hid_dim_type": None}


def install(model: UNet2DConditionModel | ControlNetModel) -> None:
    """Prepare a model, in place, for packed rows (images with one prompt each).

    Raises ValueError if the model reads more than latents, a timestep and a prompt, or if its attention is not plain.
    """
    # Eight are those of a model that edits images by instructions.
    if (num_channels := model.config.in_channels) not in (4, 8):
        raise ValueError(f"its in_channels is {num_channels}; Stable Diffusion 1.5's is 4")
    for name, expected in _CONFIG.items():
        if (value := model.config.get(name)) != expected:
            raise ValueError(f"its {name} is {value!r}; Stable Diffusion 1.5's is {expected!r}")
    attention.install(model)
