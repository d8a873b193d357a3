"""TextEncoder: both text encoders of every model, batched over requests, embeds cached by prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachetools import LRUCache
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Text, TextEmbeds
from deployments.options import TextEncoderOptions

#: A model and a text: what is cached, and what a batch is made of.
Key = tuple[str, Text]

_MAX_BATCH = 16
_BATCH_WAIT_S = 0.002


class TextEncoder:
    def __init__(self, catalogue: Catalogue, options: TextEncoderOptions) -> None:
        from atelier.models.text_encoder import TextEncoders
        from atelier.models.thread import ModelThread
        from deployments.accelerator import placement

        place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("text-encoder", num_threads=options.num_threads)
        self._encoders = self._thread.run(
            lambda: {entry.id: TextEncoders(entry, place) for entry in catalogue.models}
        )
        self._cache: LRUCache[Key, TextEmbeds] = LRUCache(options.max_cached_prompts)

    async def encode(self, model: str, texts: Sequence[Text]) -> list[TextEmbeds]:
        """Embeds of the texts, in their order. Raises InvalidParameter if a text is too long."""
        return await asyncio.gather(*(self._encode_cached((model, text)) for text in texts))

    async def _encode_cached(self, key: Key) -> TextEmbeds:
        embeds = self._cache.get(key)
        if embeds is None:
            model, text = key
            self._encoders[model].check_length(text)
            embeds = self._cache[key] = await self._encode_batch(key)
        return embeds

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _encode_batch(self, keys: list[Key]) -> list[TextEmbeds]:
        texts_of: dict[str, list[Text]] = {}
        for model, text in dict.fromkeys(keys):
            texts_of.setdefault(model, []).append(text)
        embeds = await self._thread.run_async(lambda: self._encode_now(texts_of))
        return [embeds[key] for key in keys]

    def _encode_now(self, texts_of: dict[str, list[Text]]) -> dict[Key, TextEmbeds]:
        return {
            (model, text): embeds
            for model, texts in texts_of.items()
            for text, embeds in zip(texts, self._encoders[model].encode(texts), strict=True)
        }

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
