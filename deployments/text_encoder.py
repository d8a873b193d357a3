"""TextEncoder: both text encoders of every model, batched over requests, embeds cached by prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachetools import LRUCache
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Text, TextEmbeds
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.pipeline.stages import EncodedTexts
from deployments.options import TextEncoderOptions

#: What is cached, and what a batch is made of.
Key = tuple[str, Text, Reproducibility]

_MAX_BATCH = 16
_BATCH_WAIT_S = 0.002


class TextEncoder:
    def __init__(self, catalogue: Catalogue, options: TextEncoderOptions) -> None:
        from atelier.models.hashes import place_hash
        from atelier.families.sdxl.text import TextEncoders
        from atelier.models.thread import ModelThread
        from deployments.accelerator import placement

        place = placement(options)
        self._stall_s = options.stall_s
        self._thread = ModelThread("text-encoder", num_threads=options.num_threads)
        self._encoders = self._thread.run(
            lambda: {entry.id: TextEncoders(entry, place) for entry in catalogue.models}
        )
        self._place = place_hash(place, num_threads=options.num_threads, width=1)
        self._cache: LRUCache[Key, TextEmbeds] = LRUCache(options.max_cached_prompts)

    async def encode(self, model: str, texts: Sequence[Text], reproducibility: Reproducibility) -> EncodedTexts:
        """Embeds of the texts, in their order. Raises InvalidParameter if a text is too long."""
        embeds = await asyncio.gather(*(self._encode_cached((model, text, reproducibility)) for text in texts))
        weights = {f"{model}/text_encoders": self._encoders[model].weights_hash}
        return EncodedTexts(embeds, Origin(self._place, weights))

    async def _encode_cached(self, key: Key) -> TextEmbeds:
        embeds = self._cache.get(key)
        if embeds is None:
            model, text, _ = key
            self._encoders[model].check_length(text)
            embeds = self._cache[key] = await self._encode_batch(key)
        return embeds

    @serve.batch(max_batch_size=_MAX_BATCH, batch_wait_timeout_s=_BATCH_WAIT_S)
    async def _encode_batch(self, keys: list[Key]) -> list[TextEmbeds]:
        embeds = await self._thread.run_async(lambda: self._encode_now(list(dict.fromkeys(keys))))
        return [embeds[key] for key in keys]

    def _encode_now(self, keys: list[Key]) -> dict[Key, TextEmbeds]:
        """One call for all texts of a model; a text whose bits must not depend on its company has its own."""
        calls: dict[object, list[Key]] = {}
        for key in keys:
            model, _, reproducibility = key
            calls.setdefault(key if reproducibility == "exact" else model, []).append(key)
        embeds: dict[Key, TextEmbeds] = {}
        for of_call in calls.values():
            encoded = self._encoders[of_call[0][0]].encode([text for _, text, _ in of_call])
            embeds.update(zip(of_call, encoded, strict=True))
        return embeds

    async def ping(self) -> None:
        """Answers when the replica is alive."""

    def check_health(self) -> None:
        self._thread.check(stall_s=self._stall_s)
