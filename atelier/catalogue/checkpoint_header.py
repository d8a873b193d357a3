"""What the header of a checkpoint in the original layout says: its architecture, its parts and its prediction.

A checkpoint is one file with all weights of a model, under the names of the code that trained it: LDM's, and for SDXL
sgm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from atelier.catalogue.entries import PredictionType
from atelier.catalogue.header import Header, Refused


class CheckpointPart(Enum):
    """A module of an SDXL checkpoint, by the prefix of its tensors' names."""

    UNET = "model.diffusion_model."
    VAE = "first_stage_model."
    TEXT_ENCODER = "conditioner.embedders.0.transformer."
    TEXT_ENCODER_2 = "conditioner.embedders.1.model."

    @property
    def title(self) -> str:
        return {
            CheckpointPart.UNET: "UNet",
            CheckpointPart.VAE: "VAE",
            CheckpointPart.TEXT_ENCODER: "first text encoder",
            CheckpointPart.TEXT_ENCODER_2: "second text encoder",
        }[self]

    @property
    def absence(self) -> str:
        """The reason to refuse a checkpoint without this part."""
        return f"it has no {self.title} (no tensor is named {self.value}…)"


#: Prefixes of names that only other models have, with what the file is then.
_OTHERS: Mapping[str, str] = {
    "cond_stage_model.transformer.": "a Stable Diffusion 1 checkpoint",
    "cond_stage_model.model.": "a Stable Diffusion 2 checkpoint",
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "edm_": "a checkpoint with EDM's noise levels, such as Playground 2.5",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "double_blocks.": "a Flux UNet alone",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA",
    "down_blocks.": "a UNet alone, in diffusers' layout",
    "encoder.down": "a VAE alone",
}
_ADDED_CONDITIONS = f"{CheckpointPart.UNET.value}label_emb.0.0.weight"
_FIRST_CONVOLUTION = f"{CheckpointPart.UNET.value}input_blocks.0.0.weight"
_NUM_CHANNELS = 4
_PREDICTION_TYPES: Mapping[str, PredictionType] = {
    "epsilon": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}


def check_sdxl(header: Header) -> None:
    """Raise Refused, with the reason, if the file is not a whole SDXL checkpoint for images from text."""
    for prefix, what in _OTHERS.items():
        if any(name.startswith(prefix) for name in header.shapes):
            raise Refused(f"it is {what}, not an SDXL checkpoint")
    for part in CheckpointPart:
        if not any(name.startswith(part.value) for name in header.shapes):
            raise Refused(part.absence)
    if _ADDED_CONDITIONS not in header.shapes:
        raise Refused(f"its UNet is not SDXL's: it has no {_ADDED_CONDITIONS}")
    channels = header.shapes.get(_FIRST_CONVOLUTION, ())[1:2]
    if channels != (_NUM_CHANNELS,):
        raise Refused(
            f"its UNet reads {channels[0] if channels else 'no'} channels instead of {_NUM_CHANNELS}, as models for "
            "inpainting do, which are not supported"
        )


def prediction_type_of(header: Header) -> PredictionType | None:
    """Return what the UNet predicts, by the tensor `v_pred` or ModelSpec's metadata; None if neither is there."""
    if "v_pred" in header.shapes:
        return "v_prediction"
    return _PREDICTION_TYPES.get(header.metadata.get("modelspec.prediction_type", ""))


def has_zero_terminal_snr(header: Header) -> bool:
    """Return whether the model was trained from pure noise, by the tensor `ztsnr`; only with v-prediction."""
    return "ztsnr" in header.shapes and prediction_type_of(header) == "v_prediction"
