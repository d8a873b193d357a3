"""LoRA files that tests put into a folder, and stages that make images without them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts
from atelier.core.denoising import DenoiseEvent, DenoiseRequest
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import EncodedTexts
from tests.stages import RecordingStages

#: Names of a LoRA's tensors, as peft writes them.
_NAMES = ("unet.mid_block.to_q.lora_A.weight", "unet.mid_block.to_q.lora_B.weight")


def write_lora(
    folder: Path,
    lora_id: str,
    *,
    names: Sequence[str] = _NAMES,
    metadata: Mapping[str, str] | None = None,
    **beside: object,
) -> Path:
    """Write ID.safetensors with small tensors and, if there is anything to write into it, ID.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{lora_id}.safetensors"
    save_file({name: np.zeros(2, dtype=np.float32) for name in names}, file, metadata=dict(metadata or {}))
    if beside:
        (folder / f"{lora_id}.json").write_text(json.dumps(beside))
    return file


def with_loras(catalogue: Catalogue, folder: Path) -> Catalogue:
    """The catalogue with the LoRAs in a folder."""
    models, controlnets, annotators, upscalers = (
        [entry.id for entry in entries]
        for entries in (catalogue.models, catalogue.controlnets, catalogue.annotators, catalogue.upscalers)
    )
    return catalogue.only(models, controlnets, annotators, upscalers, lora_folders=[folder])


class StagesWithoutLoras(RecordingStages):
    """Stages that leave the LoRAs out of all calls, for tests that only look at what the stages receive."""

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        return await super().encode_texts(model, replace(prompts, loras=()), reproducibility)

    @asynccontextmanager
    async def denoise(self, request: DenoiseRequest) -> AsyncIterator[AsyncIterator[DenoiseEvent]]:
        async with super().denoise(replace(request, pass_=replace(request.pass_, loras=()))) as events:
            yield events
