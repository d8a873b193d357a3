"""Load modules from the files of catalogue entries.

Weights are read from safetensors only, never from pickles. Every function raises ModelUnavailable if a file is
missing or corrupt; unless weights are required, those of the hub are downloaded first. Functions import diffusers and
transformers, which take seconds, only if they need them: most replicas need one of the two or neither.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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
from atelier.hub.parts import CONTROLNET, DEPTH_ESTIMATOR, PREVIEW_DECODER, SCHEDULER, TEXT_ENCODERS, UNET, Part
from atelier.models import single_file
from atelier.models.esrgan import Network, network_from
from atelier.models.files import FETCH, Source, absent_upscaler, source_of, vae_part
from atelier.models.memory import UNLIMITED, Memory

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        AutoencoderTiny,
        ControlNetModel,
        EulerDiscreteScheduler,
        UNet2DConditionModel,
    )
    from transformers import (
        BaseImageProcessor,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedModel,
    )

#: Held while a library loads a model: both replace functions of PyTorch meanwhile, for all threads.
_LOADING = threading.RLock()

DtypeName = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a replica's modules run."""

    device: str
    dtype_name: DtypeName
    memory: Memory = UNLIMITED
    #: Whether UNets run as CUDA graphs.
    uses_graphs: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[self.dtype_name]


def load_unet(entry: ModelEntry, placement: Placement) -> UNet2DConditionModel:
    """Load a model's UNet."""
    from diffusers import UNet2DConditionModel

    with _folder(entry.id, entry.files, UNET) as folder:
        if entry.files.file is not None:
            unet = single_file.load_unet(entry.files.file, folder, placement.dtype)
        else:
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


def unet_name_in_file(entry: ModelEntry) -> Callable[[str], str]:
    """Return a function from the name of a UNet's tensor to its name in the entry's files."""
    file = entry.files.file
    if file is None:
        return lambda name: name
    with _folder(entry.id, entry.files, UNET) as folder:
        return single_file.unet_names(file, folder).__getitem__


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
    """Load a model's scheduler config into diffusers' Euler scheduler, which takes the configs of others, too.

    What the entry or its checkpoint say of the prediction goes before the config.
    """
    from diffusers import EulerDiscreteScheduler

    with _folder(entry.id, entry.files, SCHEDULER) as folder:
        scheduler: EulerDiscreteScheduler = EulerDiscreteScheduler.from_pretrained(
            folder, subfolder="scheduler", **single_file.scheduler_settings(entry)
        )
    return scheduler


def load_preview_decoder(model: str, files: Files, placement: Placement) -> AutoencoderTiny:
    """Load a model's preview decoder."""
    from diffusers import AutoencoderTiny

    with _folder(model, files, PREVIEW_DECODER) as folder:
        decoder = AutoencoderTiny.from_pretrained(
            folder, variant=files.variant, dtype=placement.dtype, use_safetensors=True
        )
    return decoder.to(placement.device).eval()


def load_vae(entry: ModelEntry, placement: Placement) -> AutoencoderKL:
    """Load the VAE that an entry names in `vae`, or else the model's own."""
    from diffusers import AutoencoderKL

    files = entry.vae or entry.files
    with _folder(entry.id, files, vae_part(entry)) as folder:
        if files.file is not None:
            vae = single_file.load_vae(files.file, folder, placement.dtype)
        else:
            vae = AutoencoderKL.from_pretrained(
                folder,
                subfolder=None if entry.vae else "vae",
                variant=files.variant,
                dtype=placement.dtype,
                use_safetensors=True,
            )
    return vae.to(placement.device).eval()


def load_tokenizers(entry: ModelEntry) -> tuple[CLIPTokenizer, ...]:
    """Load the tokenizers of a model's text encoders, in the order of the encoders."""
    from transformers import CLIPTokenizer

    parts = TEXT_ENCODERS[entry.family]
    with _folder(entry.id, entry.files, *parts) as folder:
        return tuple(
            CLIPTokenizer.from_pretrained(folder, subfolder=part.folder) for part in parts if part.weights is None
        )


def load_text_encoders(entry: ModelEntry, placement: Placement) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Load SDXL's two text encoders, CLIP ViT-L and OpenCLIP ViT-bigG."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    file = entry.files.file
    with _folder(entry.id, entry.files, *TEXT_ENCODERS["sdxl"]) as folder:
        if file is not None:
            encoder = single_file.load_text_encoder(file, folder, placement.dtype)
            encoder_2 = single_file.load_text_encoder_2(file, folder, placement.dtype)
        else:
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
    return encoder.to(placement.device).eval(), encoder_2.to(placement.device).eval()


def load_text_encoder(entry: ModelEntry, placement: Placement) -> CLIPTextModel:
    """Load the text encoder of a model that has one."""
    from transformers import CLIPTextModel

    with _folder(entry.id, entry.files, *TEXT_ENCODERS["sd15"]) as folder:
        encoder = CLIPTextModel.from_pretrained(
            folder,
            subfolder="text_encoder",
            variant=entry.files.variant,
            dtype=placement.dtype,
            use_safetensors=True,
        )
    return encoder.to(placement.device).eval()


@contextmanager
def weight_files(model: str, files: Files, parts: Sequence[Part]) -> Iterator[list[Path]]:
    """Yield the files that the weights of parts are read from; what goes wrong meanwhile becomes ModelUnavailable."""
    with _folder(model, files, *parts) as folder:
        if files.file is not None:
            yield [files.file]
        else:
            yield [path for part in parts for path in part.weight_files(Path(folder), files.variant)]


@contextmanager
def _folder(model: str, files: Files, *parts: Part) -> Iterator[str]:
    """Yield the folder on this machine that has the parts; they are downloaded first unless they are required.

    Errors of the loading libraries are turned into ModelUnavailable, with advice.
    """
    source = source_of(f"Model {model!r}", files, *parts)
    try:
        folder = str(_available(source))
        with _LOADING:
            yield folder
    except (OSError, ValueError, HfHubHTTPError, SafetensorError) as error:
        advice = (
            "Check that the folder holds a diffusers model in safetensors."
            if source.files.folder is not None
            else f"Check the network and HF_TOKEN, or fetch it once by `{FETCH}`."
        )
        raise ModelUnavailable(f"Model {model!r}: cannot load {source.place}. {advice} ({error})") from error


def _available(source: Source) -> Path:
    if source.files.folder is None and not source.files.storage.require_weights:
        return source.download()
    return source.local_folder()
