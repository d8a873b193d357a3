"""What steers the UNet besides the latents, as plain numpy: it travels between deployments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TOKENS_PER_CHUNK = 77


@dataclass(frozen=True, slots=True)
class Text:
    """One text as SDXL's two encoders read it."""

    prompt: str
    #: What the second encoder reads, mostly the same.
    prompt_2: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeds:
    """A text after both encoders."""

    #: [77 · chunks, 2048]
    prompt_embeds: Floats
    #: [1280]
    pooled_prompt_embeds: Floats
    #: Of the prompt, without what frames and fills it.
    num_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """The texts of a request; the negative one is None where guidance runs against zeros."""

    positive: TextEmbeds
    negative: TextEmbeds | None
