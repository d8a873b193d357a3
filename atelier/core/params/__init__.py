"""The params: fields that clients may send, the same over HTTP and by handle.

One table in pydantic models, by noun. OpenAI's names where OpenAI has one; words that only one dialect has stay in
that dialect's folder of `atelier.api`. Defaults that depend on the model are filled in by `atelier.pipeline.resolve`.
"""

from __future__ import annotations

from atelier.core.params.controls import AnnotateParams, ControlParams
from atelier.core.params.delivery import OUTPUT_FORMATS, OutputFormat, ResponseFormat
from atelier.core.params.generate import GenerateParams
from atelier.core.params.parsing import Params, parse
from atelier.core.params.pictures import ImageBytes, InspectParams
from atelier.core.params.upscale import HiresStep, UpscaleParams, UpscaleStep

__all__ = [
    "OUTPUT_FORMATS",
    "AnnotateParams",
    "ControlParams",
    "GenerateParams",
    "HiresStep",
    "ImageBytes",
    "InspectParams",
    "OutputFormat",
    "Params",
    "ResponseFormat",
    "UpscaleParams",
    "UpscaleStep",
    "parse",
]
