"""Load the modules of SDXL from one checkpoint in the original layout, through the converters of diffusers.

A replica reads only the tensors of its own module. Shapes and hyperparameters come from the configs in a diffusers
folder, so that nothing is guessed from the weights. Every function raises ModelUnavailable, which names the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from atelier.catalogue.checkpoint_header import CheckpointPart, has_zero_terminal_snr, prediction_type_of
from atelier.catalogue.entries import ModelEntry
from atelier.catalogue.header import Header, Refused, read_header
from atelier.core.errors import ModelUnavailable

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

M = TypeVar("M", bound=torch.nn.Module)
V = TypeVar("V")
_Tensors = dict[str, torch.Tensor]

#: Names that a file with nothing but a VAE begins with; they lack the checkpoint's prefix.
_VAE_ALONE = "decoder."


def load_unet(file: Path, configs: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """Load the UNet of a checkpoint; `configs` is a diffusers folder."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(configs, subfolder="unet")
    unet: UNet2DConditionModel = _without_weights(lambda: UNet2DConditionModel.from_config(config))
    converted = _converted_unet(_read(file, CheckpointPart.UNET, dtype), file, config)
    return _filled(unet, converted, file, CheckpointPart.UNET)


def unet_names(file: Path, configs: str) -> dict[str, str]:
    """Return the names of the UNet's tensors in a checkpoint by those in diffusers; nothing but names is read."""
    from diffusers import UNet2DConditionModel

    names = {name: name for name in _header(file).shapes}
    return _converted_unet(names, file, UNet2DConditionModel.load_config(configs, subfolder="unet"))


def _converted_unet(tensors: dict[str, V], file: Path, config: object) -> dict[str, V]:
    """Return the values by the names that diffusers gives to the UNet's tensors."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        converted: dict[str, V] = convert_ldm_unet_checkpoint(tensors, config)
    except KeyError as error:
        raise _unavailable(file, f"its UNet lacks {error}") from error
    return converted


def load_vae(file: Path, configs: str, dtype: torch.dtype) -> AutoencoderKL:
    """Load the VAE of a checkpoint, or of a file that has nothing but a VAE."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = AutoencoderKL.load_config(configs, subfolder="vae")
    vae: AutoencoderKL = _without_weights(lambda: AutoencoderKL.from_config(config))
    is_alone = any(name.startswith(_VAE_ALONE) for name in _header(file).shapes)
    tensors = _read(file, CheckpointPart.VAE, dtype, prefix="" if is_alone else None)
    return _filled(vae, convert_ldm_vae_checkpoint(tensors, config), file, CheckpointPart.VAE)


def load_text_encoder(file: Path, configs: str, dtype: torch.dtype) -> CLIPTextModel:
    """Load the first text encoder of a checkpoint."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_pretrained(configs, subfolder="text_encoder")
    encoder = _without_weights(lambda: CLIPTextModel(config))
    converted = convert_ldm_clip_checkpoint(_read(file, CheckpointPart.TEXT_ENCODER, dtype))
    # transformers no longer has the inner module that these names begin with.
    converted = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    return _filled(encoder, converted, file, CheckpointPart.TEXT_ENCODER)


def load_text_encoder_2(file: Path, configs: str, dtype: torch.dtype) -> CLIPTextModelWithProjection:
    """Load the second text encoder of a checkpoint."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config, part = CLIPTextConfig.from_pretrained(configs, subfolder="text_encoder_2"), CheckpointPart.TEXT_ENCODER_2
    encoder = _without_weights(lambda: CLIPTextModelWithProjection(config))
    converted = convert_open_clip_checkpoint(encoder, _read(file, part, dtype), prefix=part.value)
    return _filled(encoder, converted, file, part)


def scheduler_settings(entry: ModelEntry) -> dict[str, str | bool]:
    """Return the settings of a scheduler config that the entry or the marks in its checkpoint replace.

    With zero terminal SNR the steps begin at the last training step (Lin et al. 2024, §3.3).
    """
    header = Header({}, {}) if entry.files.file is None else _header(entry.files.file)
    prediction_type = entry.prediction_type or prediction_type_of(header)
    is_zero_snr = has_zero_terminal_snr(header) if entry.zero_terminal_snr is None else entry.zero_terminal_snr
    settings: dict[str, str | bool] = {} if prediction_type is None else {"prediction_type": prediction_type}
    if is_zero_snr:
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    elif entry.zero_terminal_snr is False:
        settings["rescale_betas_zero_snr"] = False
    return settings


def _without_weights(new: Callable[[], M]) -> M:
    """Return a new module whose parameters take no memory yet."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return new()


def _read(file: Path, part: CheckpointPart, dtype: torch.dtype, *, prefix: str | None = None) -> _Tensors:
    """Read the tensors of a part, whose names begin with `prefix`, by default the part's own, in the given precision.

    They are copied, because the file may be replaced while the model is served.
    """
    names = [name for name in _header(file).shapes if name.startswith(part.value if prefix is None else prefix)]
    if not names:
        raise _unavailable(file, part.absence)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in names}
            return {name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}
    except (OSError, SafetensorError) as error:
        raise _unavailable(file, str(error)) from error


def _filled(module: M, tensors: Mapping[str, torch.Tensor], file: Path, part: CheckpointPart) -> M:
    """Put the tensors into a module without weights; further ones, such as old buffers, are ignored."""
    try:
        missing, _ = module.load_state_dict(tensors, strict=False, assign=True)
    except RuntimeError as error:
        raise _unavailable(file, f"its {part.title} does not fit its config ({error})") from error
    if missing:
        raise _unavailable(file, f"its {part.title} lacks {len(missing)} tensors, such as {missing[0]}")
    return module


def _header(file: Path) -> Header:
    try:
        return read_header(file)
    except Refused as refused:
        raise _unavailable(file, str(refused)) from refused


def _unavailable(file: Path, reason: str) -> ModelUnavailable:
    return ModelUnavailable(f"The checkpoint {file} cannot be loaded: {reason}.")
