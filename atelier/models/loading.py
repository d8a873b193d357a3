"""Load modules from the files of catalogue entries.

Weights are read from safetensors only, never from pickles. Every function raises ModelUnavailable if a file is
missing or corrupt. Functions import diffusers and transformers, which take seconds, only if they need them: most
replicas need one of the two or neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import load_file

from atelier.catalogue.entries import AnnotatorEntry, ControlNetEntry, Files, ModelEntry, UpscalerEntry
from atelier.core.errors import ModelUnavailable
from atelier.models.esrgan import Network, network_from

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
    """Device and precision of a replica's modules."""

    device: str
    dtype_name: DtypeName

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

    files = entry.files
    with _explained_errors(entry.id, files):
        unet = UNet2DConditionModel.from_pretrained(
            files.source,
            subfolder="unet",
            revision=files.revision,
            variant=files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return unet.to(placement.device).eval()


def load_controlnet(entry: ControlNetEntry, placement: Placement) -> ControlNetModel:
    """Load a ControlNet."""
    from diffusers import ControlNetModel

    files = entry.files
    with _explained_errors(entry.id, files):
        controlnet = ControlNetModel.from_pretrained(
            files.source,
            revision=files.revision,
            variant=files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return controlnet.to(placement.device).eval()


def load_depth_estimator(entry: AnnotatorEntry, placement: Placement) -> tuple[BaseImageProcessor, PreTrainedModel]:
    """Load the image processor and the model of a depth estimator."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    files = entry.files
    with _explained_errors(entry.id, files):
        processor = AutoImageProcessor.from_pretrained(files.source, revision=files.revision)
        model: PreTrainedModel = AutoModelForDepthEstimation.from_pretrained(
            files.source,
            revision=files.revision,
            variant=files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return processor, model.to(placement.device).eval()


def load_upscaler(entry: UpscalerEntry, placement: Placement) -> Network | None:
    """Load an upscaling network; return None if its file does not exist."""
    if not entry.has_weights:
        return None
    try:
        network = network_from(load_file(entry.file))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelUnavailable(f"Upscaler {entry.id!r}: cannot load {entry.file} ({error}).") from error
    return network.to(placement.device, placement.dtype).eval()


def load_scheduler(entry: ModelEntry) -> EulerDiscreteScheduler:
    """Load a model's scheduler config into diffusers' Euler scheduler, which SDXL's published config names."""
    from diffusers import EulerDiscreteScheduler

    with _explained_errors(entry.id, entry.files):
        scheduler: EulerDiscreteScheduler = EulerDiscreteScheduler.from_pretrained(
            entry.files.source, subfolder="scheduler", revision=entry.files.revision
        )
    return scheduler


def load_vae(entry: ModelEntry, placement: Placement) -> AutoencoderKL:
    """Load the VAE that an entry names in `vae`, or else the model's own."""
    from diffusers import AutoencoderKL

    files = entry.vae or entry.files
    with _explained_errors(entry.id, files):
        vae = AutoencoderKL.from_pretrained(
            files.source,
            subfolder=None if entry.vae else "vae",
            revision=files.revision,
            variant=files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return vae.to(placement.device).eval()


def load_text_encoder_modules(entry: ModelEntry, placement: Placement) -> TextEncoderModules:
    """Load a model's two text encoders and tokenizers."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    files = entry.files
    with _explained_errors(entry.id, files):
        encoder, encoder_2 = (
            kind.from_pretrained(
                files.source,
                subfolder=subfolder,
                revision=files.revision,
                variant=files.variant,
                dtype=placement.dtype,
                use_safetensors=True,
            )
            for kind, subfolder in (
                (CLIPTextModel, "text_encoder"),
                (CLIPTextModelWithProjection, "text_encoder_2"),
            )
        )
        tokenizer, tokenizer_2 = (
            CLIPTokenizer.from_pretrained(files.source, subfolder=subfolder, revision=files.revision)
            for subfolder in ("tokenizer", "tokenizer_2")
        )
    return TextEncoderModules(
        tokenizers=(tokenizer, tokenizer_2),
        encoder=encoder.to(placement.device).eval(),
        encoder_2=encoder_2.to(placement.device).eval(),
    )


@contextmanager
def _explained_errors(model: str, files: Files) -> Iterator[None]:
    """Turn errors of the loading libraries into ModelUnavailable, with advice."""
    if files.folder is not None and not files.folder.is_dir():
        raise ModelUnavailable(
            f"Model {model!r}: the folder {files.folder} does not exist. Correct `files.folder` in the "
            "catalogue; models of the zoo are made by `make zoo`."
        )
    try:
        yield
    except (OSError, ValueError, HfHubHTTPError, SafetensorError) as error:
        advice = (
            "Check that the folder holds a diffusers model in safetensors."
            if files.folder is not None
            else f"Check the network and HF_TOKEN, or fetch it once with `hf download {files.repository}` and "
            "start with HF_HUB_OFFLINE=1."
        )
        raise ModelUnavailable(f"Model {model!r}: cannot load {files.source}. {advice} ({error})") from error
