"""The life of a request after it was understood: encode → denoise → decode → write the file.

Owns the order of the stages, deadlines and what a result is. Knows neither Ray nor HTTP; retries from a
snapshot will live here, in `recovery`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from dataclasses import dataclass
from random import SystemRandom

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Conditioning, ExactnessKey
from atelier.core.denoising import Denoised, DenoiseRequest, RequestId
from atelier.core.errors import DeadlineExceeded, ReplicaLost
from atelier.core.params import GenerateParams
from atelier.imaging.formats import encode_picture
from atelier.pipeline.plan import Plan, make_plan
from atelier.pipeline.stages import Pixels, Stages

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    #: The encoded file.
    data: bytes
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    request_id: RequestId
    plan: Plan
    #: An `exact` request comes out the same to the bit where this is the same.
    exactness_key: ExactnessKey
    pictures: tuple[Picture, ...]


class Pipeline:
    """Composes the stages of the graph into finished pictures."""

    def __init__(self, stages: Stages, catalogue: Catalogue, *, max_pixel_steps: int) -> None:
        self.stages = stages
        self.catalogue = catalogue
        self._max_pixel_steps = max_pixel_steps
        self._random = SystemRandom()

    async def generate(self, params: GenerateParams) -> Result:
        """Raises any error of `atelier.core.errors` under InvalidRequest, or what the stages raise."""
        plan = make_plan(params, self.catalogue, max_pixel_steps=self._max_pixel_steps, random=self._random)
        request_id = RequestId(f"req_{secrets.token_hex(12)}")
        try:
            async with asyncio.timeout(plan.deadline_s):
                pixels, exactness_key = await self._make(plan, request_id)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Not finished within deadline_s = {plan.deadline_s}.", param="deadline_s"
            ) from error
        files = await asyncio.to_thread(lambda: [encode_picture(picture, plan.output_format) for picture in pixels])
        pictures = tuple(Picture(data=data, seed=seed) for data, seed in zip(files, plan.seeds, strict=True))
        return Result(request_id=request_id, plan=plan, exactness_key=exactness_key, pictures=pictures)

    async def _make(self, plan: Plan, request_id: RequestId) -> tuple[Pixels, ExactnessKey]:
        is_guided = plan.guidance_scale > 1
        negative = plan.negative if is_guided else None
        texts = [plan.positive] if negative is None else [plan.positive, negative]
        encoded = await self.stages.encode_texts(plan.model, texts, plan.reproducibility)
        request = DenoiseRequest(
            request_id=request_id,
            model=plan.model,
            height=plan.size.height,
            width=plan.size.width,
            seeds=plan.seeds,
            sampling=plan.sampling,
            guidance_scale=plan.guidance_scale,
            guidance_rescale=plan.guidance_rescale,
            reproducibility=plan.reproducibility,
            conditioning=Conditioning(
                positive=encoded.embeds[0], negative=None if negative is None else encoded.embeds[1]
            ),
        )
        denoised = await self._denoise(request)
        decoded = await self.stages.decode(plan.model, denoised.latents)
        return decoded.pixels, _joined(encoded.exactness_key, denoised.exactness_key, decoded.exactness_key)

    async def _denoise(self, request: DenoiseRequest) -> Denoised:
        async with self.stages.denoise(request) as events:
            async for event in events:
                if isinstance(event, Denoised):
                    return event
        raise ReplicaLost("The denoiser's stream ended without latents.")


def _joined(*keys: ExactnessKey) -> ExactnessKey:
    """One key for all stages that a request went through."""
    return ExactnessKey(hashlib.sha256("".join(keys).encode()).hexdigest()[:16])
