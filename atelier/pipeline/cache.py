"""The cache of results: an equal request with a seed gets the images that are there, byte for byte.

A result's key is a hash of the resolved request, its input images, its LoRAs' files, and the placements and weights
of the stages, so that another model, library or device makes another key. A request for an image that is there in
another file format, or before its enlargement, begins with that image, if it is a PNG.

Whatever fails here makes a request slower, and nothing else: its images are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from random import SystemRandom

from atelier.catalogue.loras import LoraLibrary
from atelier.core.denoising import RequestId
from atelier.core.errors import AtelierError, JobsUnavailable
from atelier.core.jobs import Json
from atelier.core.params import GenerateParams
from atelier.core.params.generate import MAX_SEED
from atelier.pipeline.finish import Drawn
from atelier.pipeline.kept import drawn_of, kept, names_in, read_files, result_of
from atelier.pipeline.known_origins import KnownOrigins, are_among, stages_of
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import Result
from atelier.pipeline.stages import Stages
from atelier.stores.blobs import BlobStore
from atelier.stores.results import Results, ResultStats
from atelier.stores.seeds import Seeds

logger = logging.getLogger(__name__)

#: Seconds between two times when counts are written and old results are deleted.
_SWEEP_S = 10.0


class ResultCache:
    """The cached results of all processes of a graph."""

    def __init__(
        self,
        results: Results,
        seeds: Seeds,
        files: BlobStore,
        stages: Stages,
        loras: LoraLibrary,
        *,
        max_bytes: int,
        ttl: timedelta,
    ) -> None:
        """Keep results of `stages` for `ttl`, and of those only the last used, with files of `max_bytes` in all."""
        self._results = results
        self._seeds = seeds
        self._files = files
        self._origins = KnownOrigins(stages)
        self._loras = loras
        #: Size of all files; with 0, nothing is kept or found. It can be changed at any time.
        self.max_bytes = max_bytes
        self._ttl_s = ttl.total_seconds()
        self._random = SystemRandom()

    @property
    def is_on(self) -> bool:
        """Whether results are kept and found."""
        return self.max_bytes > 0

    async def find(self, request_id: RequestId, plan: Plan) -> Result | Drawn | None:
        """Return the result of an equal request, images to begin with, or None if there are neither."""
        try:
            return await self._find(request_id, plan)
        except (AtelierError, OSError) as error:
            logger.warning("%s: the cache of results cannot be read: %s", request_id, error)
            return None

    async def keep(self, result: Result) -> None:
        """Keep a result, unless the stages have changed since they were asked."""
        params = result.plan.params
        try:
            known = await self._origins.of(stages_of(params))
            if not are_among(result.provenance.origins, known, loras=_loras(params)):
                self._origins.forget()
                return
            fields, num_bytes = await kept(result, self._files)
            await self._results.put(await self._key(params), fields, num_bytes)
        except (AtelierError, OSError) as error:
            logger.warning("%s: its result cannot be cached: %s", result.request_id, error)

    async def seeded(self, params: GenerateParams) -> GenerateParams:
        """Return params without a seed with the one that was drawn for the first of all equal requests."""
        asked = await asyncio.to_thread(lambda: _hash(_canonical(params)))
        try:
            seed = await self._seeds.first("", f"same:{asked}", fingerprint="", seed=self._draw(params))
        except JobsUnavailable as error:
            logger.warning("a request that prefers the cache draws a seed of its own: %s", error)
            return params
        return params.model_copy(update={"seed": seed})

    async def with_key(self, params: GenerateParams, key: str) -> GenerateParams:
        """Return params with the seed of the first request with this key, so that it makes the same images.

        Raises IdempotencyConflict if that was another request, and JobsUnavailable.
        """
        fingerprint = await asyncio.to_thread(lambda: _hash(_canonical(params)))
        seed = self._draw(params) if params.seed == -1 else params.seed
        first = await self._seeds.first("", f"key:{key}", fingerprint=fingerprint, seed=seed)
        return params.model_copy(update={"seed": first})

    def _draw(self, params: GenerateParams) -> int:
        return self._random.randint(0, MAX_SEED - params.n + 1)

    async def stats(self) -> ResultStats:
        """Return the numbers of all processes. Raises JobsUnavailable."""
        return await self._results.stats()

    async def clear(self, *, max_age_s: float) -> int:
        """Delete all results that are older, and return their number. Raises JobsUnavailable or StoreUnavailable."""
        deleted = await self._results.expire(older_than=time.time() - max_age_s)
        await self._files.delete([name for one in deleted for name in names_in(one)])
        return len(deleted)

    async def sweep(self) -> None:
        """Write counts, and delete what is too old or too much, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self._results.flush()
                await self.clear(max_age_s=self._ttl_s)
                await self._seeds.expire(older_than=time.time() - self._ttl_s)
                deleted = await self._results.shrink(max_bytes=self.max_bytes)
                await self._files.delete([name for one in deleted for name in names_in(one)])
            except AtelierError as error:
                logger.warning("the cache of results cannot be swept, will try again: %s", error)

    async def _find(self, request_id: RequestId, plan: Plan) -> Result | Drawn | None:
        as_png = plan.params.model_copy(update={"output_format": "png", "output_compression": None})
        before = as_png.model_copy(update={"upscale": None})
        keys = {one: await self._key(one) for one in dict.fromkeys((plan.params, as_png, before))}
        found = await self._results.find([*keys.values()], newer_than=time.time() - self._ttl_s)
        for params, key in keys.items():
            if key in found and (files := await self._read(key, found[key])) is not None:
                self._results.count(key)
                if params == plan.params:
                    return result_of(found[key], files, request_id, plan)
                return await asyncio.to_thread(drawn_of, found[key], files, is_enlarged=params == as_png)
        self._results.count(None)
        return None

    async def _read(self, key: str, result: Json) -> Mapping[str, bytes] | None:
        """Return the files of a result; one whose files are gone is deleted."""
        files = await read_files(result, self._files)
        if files is None:
            await self._results.delete(key)
        return files

    async def _key(self, params: GenerateParams) -> str:
        known = await self._origins.of(stages_of(params))
        stages = sorted([origin.place, sorted(origin.weights.items())] for origin in known)
        return await asyncio.to_thread(lambda: _hash([_canonical(params), _stamps(params, self._loras), stages]))


def _canonical(params: GenerateParams) -> list[object]:
    """Return all that a request asks for, with hashes of its input images."""
    images = {name: hashlib.sha256(data).hexdigest() for name, data in params.image_files.items()}
    return [params.model_dump(mode="json"), params.n, images]


def _loras(params: GenerateParams) -> list[str]:
    return [lora.model for lora in params.loras if lora.model is not None]


def _stamps(params: GenerateParams, loras: LoraLibrary) -> list[object]:
    """Return what changes when the file of a LoRA is replaced."""
    found = [loras.file(lora_id).stat() for lora_id in _loras(params)]
    return [[one.st_size, one.st_mtime_ns] for one in found]


def _hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
