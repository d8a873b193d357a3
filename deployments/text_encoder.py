"""TextEncoder: the text encoders of every model; texts of several requests share a call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts, TextEmbeds
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import EncodedTexts
from deployments.options import TextEncoderOptions
from deployments.replica import Replica

if TYPE_CHECKING:
    from atelier.local.texts import TextTask

_MAX_BATCH = 16
_BATCH_WAIT_S = 0.002


class TextEncoder(Replica):
    """The deployment that turns prompts into a conditioning."""

    def __init__(self, catalogue: Catalogue, options: TextEncoderOptions) -> None:
        """Load the text encoders. Raises ModelUnavailable if a model's files are missing or corrupt."""
        from atelier.local.texts import TextEncoderStage

        super().__init__("text-encoder", options)
        self._stage = TextEncoderStage.load(catalogue, self._runtime, max_cached_texts=options.max_cached_prompts)

    async def encode_texts(self, model: str, prompts: Prompts, reproducibility: Reproducibility) -> EncodedTexts:
        """Encode a request's prompts. Raises InvalidParameter if a text is too long."""
        return await self._stage.encode_texts(model, prompts, reproducibility, encode=self._encode)

    async def load_model(self, model: str) -> bool:
        """Bring a model into memory, and return True. Raises ModelUnavailable."""
        return await self._stage.load_model(model)

    async def unload_model(self, model: str) -> bool:
        """Take a model out of memory; return whether it is still there, because it is used."""
        return await self._stage.unload_model(model)

    async def origin(self) -> Origin:
        """Return this replica's placement, and the weights of all its models."""
        return self._stage.origin()

    async def _encode(self, tasks: Sequence[TextTask]) -> list[TextEmbeds]:
        embeds: list[TextEmbeds] = await asyncio.gather(*(self._encode_batch(task) for task in tasks))
        return embeds

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _encode_batch(self, tasks: list[TextTask]) -> list[TextEmbeds]:
        return await self._stage.encode(tasks)
