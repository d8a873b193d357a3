"""Prompts and their embeddings, as plain data that travels between deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from atelier.core.adapters import Lora

Floats = npt.NDArray[np.float32]

#: Positive prompts steer an image towards their text, negative ones away from it (classifier-free guidance). In the
#: role `image`, which only edits by instructions have, the UNet reads the negative prompt with the image to edit.
Role = Literal["positive", "negative", "image"]

TOKENS_PER_CHUNK = 77


@dataclass(frozen=True, slots=True)
class Text:
    """One prompt for a model's text encoders."""

    prompt: str
    #: Text for the second encoder, if the model has one; usually equal to `prompt`.
    prompt_2: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The texts of a request."""

    positive: Text
    #: None where there is no negative prompt: guidance then runs against embeddings of zeros.
    negative: Text | None
    #: The LoRAs that act, in their order. They change the embeddings if they have parts for the text encoders.
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeds:
    """The embeddings of one text."""

    #: Hidden states, [77 · chunks, width]: 2048 for both of SDXL's encoders side by side, 768 for SD 1.5's.
    prompt_embeds: Floats
    #: Pooled output of the second encoder, [1280]; [0] without one.
    pooled_prompt_embeds: Floats
    #: Number of tokens in the prompt, without the begin, end and padding tokens.
    num_tokens: int = 0

    def __post_init__(self) -> None:
        if not len(self.prompt_embeds) or len(self.prompt_embeds) % TOKENS_PER_CHUNK:
            raise ValueError(
                f"prompt_embeds has {len(self.prompt_embeds)} rows, not a multiple of {TOKENS_PER_CHUNK}"
            )

    def zeros(self) -> TextEmbeds:
        """Return embeddings of zeros in the same shapes; SDXL is trained to read them as no prompt."""
        return TextEmbeds(
            prompt_embeds=np.zeros_like(self.prompt_embeds),
            pooled_prompt_embeds=np.zeros_like(self.pooled_prompt_embeds),
        )

    @property
    def num_chunks(self) -> int:
        return len(self.prompt_embeds) // TOKENS_PER_CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """The embeddings of a request's prompts."""

    positive: TextEmbeds
    #: None where guidance runs against embeddings of zeros, or where there is no guidance.
    negative: TextEmbeds | None

    def by_role(self, roles: Sequence[Role]) -> dict[Role, TextEmbeds]:
        """Return the embeddings that the UNet reads for each of some roles."""
        if "negative" not in roles:
            return {"positive": self.positive}
        negative = self.negative or self.positive.zeros()
        return {role: self.positive if role == "positive" else negative for role in roles}
