"""The text stage: encodes prompts into a conditioning, with a cache of texts and as few encoder calls as possible."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from cachetools import LRUCache

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.adapters import Lora
from atelier.core.conditioning import Conditioning, Prompts, Text, TextEmbeds
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.families.family import Adapter, LoadedAdapters, Part, TextEncoders, WeightedAdapter, family_of
from atelier.local.per_model import PerModel
from atelier.local.runtime import Runtime
from atelier.pipeline.stages import EncodedTexts

DEFAULT_MAX_CACHED_TEXTS = 2000


@dataclass(frozen=True, slots=True)
class TextKey:
    """A text to encode: the key of its embeddings in the cache."""

    model: str
    text: Text
    #: Part of the key because texts of `exact` requests are encoded alone, which may change the last bits.
    reproducibility: Reproducibility
    #: The LoRAs that have a part for the text encoders, each with the hash of that part.
    loras: tuple[tuple[Lora, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TextTask:
    """A text to encode, and its LoRAs in memory, which the cache does not hold on to."""

    key: TextKey
    adapters: tuple[WeightedAdapter, ...] = ()


#: Encodes texts of any models; embeddings are in the order of the tasks.
EncodeTexts = Callable[[Sequence[TextTask]], Awaitable[list[TextEmbeds]]]


class TextEncoderStage:
    """The text encoders of all models, and a cache of the embeddings they made."""

    def __init__(
        self,
        encoders: PerModel[TextEncoders],
        runtime: Runtime,
        adapters: LoadedAdapters,
        *,
        max_cached_texts: int = DEFAULT_MAX_CACHED_TEXTS,
    ) -> None:
        """`encoders` are made in the runtime's thread; `adapters` loads their LoRAs."""
        self._encoders = encoders
        self._adapters = adapters
        self._runtime = runtime
        self._cache: LRUCache[TextKey, TextEmbeds] = LRUCache(max_cached_texts)

    @classmethod
    def load(
        cls, catalogue: Catalogue, runtime: Runtime, *, max_cached_texts: int = DEFAULT_MAX_CACHED_TEXTS
    ) -> TextEncoderStage:
        """Load the text encoders of the models that are to be preloaded. Raises ModelUnavailable."""

        def make(entry: ModelEntry) -> TextEncoders:
            return family_of(entry.family).load_text_encoders(entry, runtime.placement, runtime.host)

        encoders = PerModel(catalogue.model, make, runtime.thread)
        encoders.load(catalogue.models)

        def modules(model: str) -> Mapping[Part, torch.nn.Module]:
            return encoders.made[model].modules

        adapters = LoadedAdapters(catalogue.loras.file, modules, runtime.placement)
        return cls(encoders, runtime, adapters, max_cached_texts=max_cached_texts)

    async def encode_texts(
        self,
        model: str,
        prompts: Prompts,
        reproducibility: Reproducibility,
        *,
        encode: EncodeTexts | None = None,
    ) -> EncodedTexts:
        """Encode a request's prompts, taking texts that were encoded before from the cache.

        `encode`, by default `self.encode`, encodes the missing texts; it may batch them with those of other requests.
        Raises InvalidParameter if a text is longer than the encoders read, and AdapterInvalid if a LoRA cannot be
        loaded.
        """
        encoders = await self._encoders.get(model)
        adapters = await self._load_adapters(model, prompts.loras)
        loras = tuple((lora, adapter.weights_hash) for lora, adapter in adapters.items())
        weighted = tuple((adapter, lora.weight) for lora, adapter in adapters.items())
        texts = [prompts.positive] if prompts.negative is None else [prompts.positive, prompts.negative]
        tasks = [TextTask(TextKey(model, text, reproducibility, loras), weighted) for text in texts]
        positive, *negative = await self._encode_cached(tasks, encode or self.encode)
        conditioning = Conditioning(positive=positive, negative=negative[0] if negative else None)
        weights = {f"{model}/text_encoders": encoders.weights_hash}
        weights |= {f"{lora.id}/text_encoders": adapter.weights_hash for lora, adapter in adapters.items()}
        return EncodedTexts(conditioning, self._runtime.origin(weights))

    async def load_model(self, model: str) -> bool:
        """Bring a model's text encoders into memory, and return True. Raises ModelUnavailable."""
        await self._encoders.bring(model)
        return True

    async def unload_model(self, model: str) -> bool:
        """Take a model's text encoders out of memory; return whether they are still there."""
        return await self._encoders.unload(model)

    def origin(self) -> Origin:
        """Return the placement, and the weights of all text encoders that were loaded."""
        made = self._encoders.made
        weights = {f"{model}/text_encoders": encoders.weights_hash for model, encoders in made.items()}
        return self._runtime.origin(weights)

    async def _load_adapters(self, model: str, loras: Sequence[Lora]) -> dict[Lora, Adapter]:
        """Load LoRAs, and return those that have a part for the text encoders."""
        loaded = await asyncio.gather(*(asyncio.wrap_future(self._adapters.get(model, lora.id)) for lora in loras))
        return {lora: adapter for lora, adapter in zip(loras, loaded, strict=True) if adapter.changes_texts}

    async def encode(self, tasks: Sequence[TextTask]) -> list[TextEmbeds]:
        """Encode texts without the cache, in one call per model; each text of an `exact` request is encoded alone."""
        return await self._runtime.thread.run_async(lambda: self._encode_now(tasks))

    async def _encode_cached(self, tasks: Sequence[TextTask], encode: EncodeTexts) -> list[TextEmbeds]:
        embeds = {task.key: self._cache[task.key] for task in tasks if task.key in self._cache}
        missing = {task.key: task for task in tasks if task.key not in embeds}
        for key in missing:
            self._encoders.made[key.model].check_length(key.text)
        if missing:
            made = dict(zip(missing, await encode([*missing.values()]), strict=True))
            self._cache.update(made)
            embeds |= made
        return [embeds[task.key] for task in tasks]

    def _encode_now(self, tasks: Sequence[TextTask]) -> list[TextEmbeds]:
        calls: dict[TextKey | str, dict[TextKey, TextTask]] = {}
        for task in tasks:
            key = task.key
            calls.setdefault(key if key.reproducibility == "exact" else key.model, {})[key] = task
        embeds: dict[TextKey, TextEmbeds] = {}
        for call in calls.values():
            encoders = self._encoders.made[next(iter(call)).model]
            encoded = encoders.encode([key.text for key in call], [task.adapters for task in call.values()])
            embeds.update(zip(call, encoded, strict=True))
        return [embeds[task.key] for task in tasks]
