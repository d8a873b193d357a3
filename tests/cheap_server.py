"""`python -m tests.cheap_server PORT`: the HTTP application over stages in this process, with very low limits.

It rejects requests that cost more than two steps of the smallest image. Tests of the API use it, because they do not
look at the content of images.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import uvicorn

from atelier.api.app import build_app
from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.geometry import Size
from atelier.local.stages import LocalStages
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from atelier.stores.blobs import BlobStore

_MAX_PIXEL_STEPS = 64 * 64 * 2


def _quick(entry: ModelEntry) -> ModelEntry:
    """The entry with defaults of one step and the smallest size, so that valid requests stay within the limits."""
    defaults = entry.defaults.model_copy(update={"num_inference_steps": 1, "size": Size(width=64, height=64)})
    return entry.model_copy(update={"defaults": defaults})


def main() -> None:
    torch.set_num_threads(1)
    served = read_catalogue().only(["tiny-sdxl"], None, ["tiny-depth-anything"], ["tiny-x4"])
    catalogue = served.model_copy(update={"models": tuple(map(_quick, served.models))})
    pipeline = Pipeline(LocalStages(catalogue), catalogue, PipelineLimits(max_pixel_steps=_MAX_PIXEL_STEPS))
    blobs = BlobStore(Path(tempfile.mkdtemp()).as_uri(), ttl=timedelta(hours=1))
    app = build_app(pipeline, blobs, max_body_bytes=1_000_000)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
