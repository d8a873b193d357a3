"""Load modules from the files of catalogue entries.

Weights are read from safetensors only, never from pickles. Every function raises ModelUnavailable if a file is
missing or corrupt; unless weights are required, those of the hub are downloaded first. Functions import diffusers and
transformers, which take seconds, only if they need them: most replicas need one of the two or neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file

from atelier.catalogue.entries import AnnotatorEntry, ControlNetEntry, Files, ModelEntry, UpscalerEntry
from atelier.core.errors import ModelUnavailable
from atelier.models.esrgan import Network, network_from
from atelier.models.files import FETCH, Source, absent_upscaler
from atelier.models.memory import UNLIMITED, Memory
from atelier.models.parts import CONTROLNET, DEPTH_ESTIMATOR, SCHEDULER, SEPARATE_VAE, TEXT_ENCODERS, UNET, VAE, Part

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import (
        BaseImageProcessor,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedModel,
    )

DtypeName = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, precision and memory of a replica's modules."""

    device: str
    dtype_name: DtypeName
    memory: Memory = UNLIMITED

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[self.dtype_name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderModules:
    """SDXL's two text encoders, CLIP ViT-L and OpenCLIP ViT-bigG, each with its tokenizer."""

    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
    encoder: CLIPTextModel
    encoder_2: CLIPTextModelWithProjection


def load_unet(entry: ModelEntry, placement: Placement) -> UNet2DConditionModel:
    """Load a model's UNet."""
    from diffusers import UNet2DConditionModel

    with _folder(entry.id, entry.files, UNET) as folder:
        unet = UNet2DConditionModel.from_pretrained(
            folder,
            subfolder="unet",
            variant=entry.files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return unet.to(placement.device).eval()


def unet_without_weights(entry: ModelEntry) -> UNet2DConditionModel:
    """Return a model's UNet with parameters on PyTorch's device `meta`, which hold no numbers."""
    from diffusers import UNet2DConditionModel

    with _folder(entry.id, entry.files, UNET) as folder, torch.device("meta"):
        config = UNet2DConditionModel.load_config(folder, subfolder="unet")
        unet: UNet2DConditionModel = UNet2DConditionModel.from_config(config)
    return unet.eval()


def load_controlnet(entry: ControlNetEntry, placement: Placement) -> ControlNetModel:
    """Load a ControlNet."""
    from diffusers import ControlNetModel

    with _folder(entry.id, entry.files, CONTROLNET) as folder:
        controlnet = ControlNetModel.from_pretrained(
            folder, variant=entry.files.variant, dtype=placement.dtype, use_safetensors=True
        )
    return controlnet.to(placement.device).eval()


def load_depth_estimator(entry: AnnotatorEntry, placement: Placement) -> tuple[BaseImageProcessor, PreTrainedModel]:
    """Load the image processor and the model of a depth estimator."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    with _folder(entry.id, entry.files, DEPTH_ESTIMATOR) as folder:
        processor = AutoImageProcessor.from_pretrained(folder)
        model: PreTrainedModel = AutoModelForDepthEstimation.from_pretrained(
            folder, variant=entry.files.variant, dtype=placement.dtype, use_safetensors=True
        )
    return processor, model.to(placement.device).eval()


def load_upscaler(entry: UpscalerEntry, placement: Placement) -> Network | None:
    """Load an upscaling network; return None if its file does not exist and is not required."""
    if not entry.file.is_file():
        if entry.is_required:
            raise ModelUnavailable(absent_upscaler(entry))
        return None
    try:
        network = network_from(load_file(entry.file))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelUnavailable(f"Upscaler {entry.id!r}: cannot load {entry.file} ({error}).") from error
    return network.to(placement.device, placement.dtype).eval()


def load_scheduler(entry: ModelEntry) -> EulerDiscreteScheduler:
    """Load a model's scheduler config into diffusers' Euler scheduler, which SDXL's published config names."""
    from diffusers import EulerDiscreteScheduler

    with _folder(entry.id, entry.files, SCHEDULER) as folder:
        scheduler: EulerDiscreteScheduler = EulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return scheduler


def load_vae(entry: ModelEntry, placement: Placement) -> AutoencoderKL:
    """Load the VAE that an entry names in `vae`, or else the model's own."""
    from diffusers import AutoencoderKL

    files = entry.vae or entry.files
    with _folder(entry.id, files, SEPARATE_VAE if entry.vae else VAE) as folder:
        vae = AutoencoderKL.from_pretrained(
            folder,
            subfolder=None if entry.vae else "vae",
            variant=files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return vae.to(placement.device).eval()


def load_tokenizers(entry: ModelEntry) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Load the tokenizers of a model's two text encoders."""
    from transformers import CLIPTokenizer

    with _folder(entry.id, entry.files, *TEXT_ENCODERS) as folder:
        first, second = (
            CLIPTokenizer.from_pretrained(folder, subfolder=subfolder) for subfolder in ("tokenizer", "tokenizer_2")
        )
    return first, second


def load_text_encoder_modules(entry: ModelEntry, placement: Placement) -> TextEncoderModules:
    """Load a model's two text encoders and tokenizers."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with _folder(entry.id, entry.files, *TEXT_ENCODERS) as folder:
        encoder, encoder_2 = (
            kind.from_pretrained(
                folder,
                subfolder=subfolder,
                variant=entry.files.variant,
                dtype=placement.dtype,
                use_safetensors=True,
            )
            for kind, subfolder in (
                (CLIPTextModel, "text_encoder"),
                (CLIPTextModelWithProjection, "text_encoder_2"),
            )
        )
    return TextEncoderModules(
        tokenizers=load_tokenizers(entry),
        encoder=encoder.to(placement.device).eval(),
        encoder_2=encoder_2.to(placement.device).eval(),
    )


@contextmanager
def weight_files(model: str, files: Files, parts: Sequence[Part]) -> Iterator[list[Path]]:
    """Yield the files that the weights of parts are read from; what goes wrong meanwhile becomes ModelUnavailable."""
    with _folder(model, files, *parts) as folder:
        yield [path for part in parts for path in part.weight_files(Path(folder), files.variant)]


@contextmanager
def _folder(model: str, files: Files, *parts: Part) -> Iterator[str]:
    """Yield the folder on this machine that has the parts; they are downloaded first unless they are required.

    Errors of the loading libraries are turned into ModelUnavailable, with advice.
    """
    source = Source(entry=f"Model {model!r}", files=files, parts=parts)
    try:
        yield str(_available(source))
    except (OSError, ValueError, HfHubHTTPError, SafetensorError) as error:
        advice = (
            "Check that the folder holds a diffusers model in safetensors."
            if files.folder is not None
            else f"Check the network and HF_TOKEN, or fetch it once by `{FETCH}`."
        )
        raise ModelUnavailable(f"Model {model!r}: cannot load {source.place}. {advice} ({error})") from error


def _available(source: Source) -> Path:
    if source.files.folder is None and not source.files.storage.require_weights:
        return source.download()
    return source.local_folder()
