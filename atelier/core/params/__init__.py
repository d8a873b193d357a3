"""The params: fields that clients may send, the same over HTTP and by handle.

Each module defines the pydantic models of one noun. Fields have OpenAI's names where OpenAI has one; names that only
one API dialect uses are defined in that dialect's folder of `atelier.api`. Defaults that depend on the model are
filled in by `atelier.pipeline.resolve`.
"""

from __future__ import annotations

from atelier.core.params.controls import AnnotateParams, ControlParams
from atelier.core.params.delivery import OUTPUT_FORMATS, OutputFormat, ResponseFormat
from atelier.core.params.download import DownloadParams, InstalledKind, RepositoryId, RepositoryKind
from atelier.core.params.generate import GenerateParams
from atelier.core.params.loras import LoraParams
from atelier.core.params.parsing import Params, parse
from atelier.core.params.pictures import ImageBytes, InspectParams
from atelier.core.params.upscale import HiresStep, UpscaleParams, UpscaleStep

__all__ = [
    "OUTPUT_FORMATS",
    "AnnotateParams",
    "ControlParams",
    "DownloadParams",
    "GenerateParams",
    "HiresStep",
    "ImageBytes",
    "InspectParams",
    "InstalledKind",
    "LoraParams",
    "OutputFormat",
    "Params",
    "RepositoryId",
    "RepositoryKind",
    "ResponseFormat",
    "UpscaleParams",
    "UpscaleStep",
    "parse",
]
