"""The life of a request after it was understood: encode → denoise → decode → write the file.

Owns the order of the stages, deadlines and what a result is. Knows neither Ray nor HTTP; retries from a
snapshot will live here, in `recovery`, and nowhere else.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import TypeVar

import numpy as np

from atelier.catalogue.catalogue import Catalogue
from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.core.conditioning import Conditioning
from atelier.core.control import Annotation, ControlImage
from atelier.core.denoising import Denoised, DenoiseRequest, InitialImage, RequestId, StepEvent
from atelier.core.errors import DeadlineExceeded, ReplicaLost
from atelier.core.origin import Origin, exactness_key
from atelier.core.params import AnnotateParams, GenerateParams, UpscaleParams
from atelier.core.sampling import Reproducibility
from atelier.imaging.formats import encode_picture
from atelier.imaging.inputs import mask_of_latents
from atelier.pipeline.coalesce import Coalescer
from atelier.pipeline.controls import PlannedControl, control_of, pixels_to_annotate
from atelier.pipeline.inputs import FittedInputs, read_inputs
from atelier.pipeline.plan import Plan, make_plan
from atelier.pipeline.results import ControlMap, Picture, Result, files_of, maps_of, painted_over, usage_of
from atelier.pipeline.stages import Annotated, EncodedPictures, Pixels, Stages, Upscaled
from atelier.pipeline.upscaling import Enlarged, PlannedUpscale, enlarge, pixels_to_enlarge

#: Up to six pictures of 4096² in a request are 400 MB before they are brought to the size that is drawn.
_MAX_LARGE_PICTURES = 2

T = TypeVar("T")
Hear = Callable[[StepEvent], None]


@dataclass(slots=True, kw_only=True)
class Listener:
    """Whoever wants to know of a request while it is made."""

    #: Gets the plan, then the steps that are told of, counted through all passes.
    hear: Callable[[Plan | StepEvent], None]
    wants_steps: bool
    num_previews: int
    _num_done: int = 0

    def of_pass(self, *, others_after: float = 0) -> Hear:
        """For the events of the next pass, after which so many of its own length come."""
        before = self._num_done

        def hear(event: StepEvent) -> None:
            self._num_done = before + event.step
            total = before + event.total + round(others_after * event.total)
            self.hear(replace(event, step=self._num_done, total=total))

        return hear


class Pipeline:
    """Composes the stages of the graph into finished pictures."""

    def __init__(self, stages: Stages, catalogue: Catalogue, *, max_pixel_steps: int) -> None:
        self.stages = stages
        self.catalogue = catalogue
        self._max_pixel_steps = max_pixel_steps
        self._random = SystemRandom()
        self._in_flight: Coalescer[Result] = Coalescer()
        #: A picture is in memory as large as it was sent only in these threads, also when its client has left.
        self._picture_threads = ThreadPoolExecutor(_MAX_LARGE_PICTURES, "pictures")
        #: Pictures that are answered as large as they came, or larger.
        self._large_answers = asyncio.Semaphore(_MAX_LARGE_PICTURES)

    async def generate(self, params: GenerateParams) -> Result:
        """Equal requests with a seed and without a deadline, at the same time, are made once.

        Raises any error of `atelier.core.errors` under InvalidRequest, or what the stages raise.
        """
        if params.seed == -1 or params.deadline_s is not None:
            return await self.make(params)
        return await self._in_flight.once(params.key, lambda: self.make(params))

    async def make(self, params: GenerateParams, listener: Listener | None = None) -> Result:
        """As `generate`, on its own, and told of to a listener."""
        request_id = RequestId(f"req_{secrets.token_hex(12)}")
        try:
            async with asyncio.timeout(params.deadline_s):
                if params.has_pictures:
                    plan, fitted = await self._with_pictures(lambda: self._prepare(params))
                else:
                    plan, fitted = self._prepare(params)
                if listener is not None:
                    listener.hear(plan)
                return await self._make(plan, fitted, request_id, listener)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"Not finished within deadline_s = {params.deadline_s}.", param="deadline_s"
            ) from error

    async def upscale(self, params: UpscaleParams) -> Enlarged:
        """A client's picture made larger. Raises InvalidParameter or ModelNotFound."""
        async with self._large_answers:
            pixels = await self._with_pictures(lambda: pixels_to_enlarge(params))
            return await enlarge(self.stages, self.catalogue, params, pixels)

    async def annotate(self, params: AnnotateParams) -> ControlMap:
        """The control map of a picture, as large as it. Raises InvalidParameter or NotSupported."""
        async with self._large_answers:
            pixels = await self._with_pictures(lambda: pixels_to_annotate(params.image))
            annotation = Annotation(params.kind, params.low_threshold, params.high_threshold)
            drawn = await self.stages.annotate(annotation, pixels)
            data = await asyncio.to_thread(encode_picture, drawn.control_image, "png")
        return ControlMap(kind=params.kind, data=data)

    async def _with_pictures(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._picture_threads, read)

    def _prepare(self, params: GenerateParams) -> tuple[Plan, FittedInputs]:
        """Everything that may refuse the request, before any model sees it."""
        with read_inputs(params) as inputs:
            plan = make_plan(
                params, inputs, self.catalogue, max_pixel_steps=self._max_pixel_steps, random=self._random
            )
            return plan, inputs.at(plan.size)

    async def _make(
        self, plan: Plan, fitted: FittedInputs, request_id: RequestId, listener: Listener | None
    ) -> Result:
        negative = plan.negative if plan.guidance_scale > 1 else None
        texts = [plan.positive] if negative is None else [plan.positive, negative]
        encoded, (initial, origin_of_initial), annotated = await asyncio.gather(
            self.stages.encode_texts(plan.model, texts, plan.reproducibility),
            self._encode(plan.model, fitted),
            asyncio.gather(*map(self._annotate, plan.controls, fitted.control_images)),
        )
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
            initial_image=initial,
            controls=tuple(map(control_of, plan.controls, annotated)),
            wants_steps=listener is not None and listener.wants_steps,
            num_previews=0 if listener is None else listener.num_previews,
        )
        denoised = await self._denoise(
            request, None if listener is None else listener.of_pass(others_after=plan.relative_steps_of_hires)
        )
        decoded = await self.stages.decode(plan.model, denoised.latents)
        painted = await asyncio.to_thread(painted_over, decoded.pixels, fitted)
        redrawn, made_before, origins_of_second = await self._draw_again(plan, request, painted, listener)
        large = [] if plan.upscale is None else await self._enlarged(plan.upscale, redrawn, plan.reproducibility)
        origins = [
            encoded.origin,
            *origin_of_initial,
            *(drawn.origin for drawn in annotated),
            denoised.origin,
            decoded.origin,
            *origins_of_second,
            *(picture.origin for picture in large),
        ]
        finished = [picture.pixels for picture in large] or list(redrawn)
        files = await asyncio.to_thread(files_of, finished, plan, origins)
        return Result(
            request_id=request_id,
            plan=plan,
            exactness_key=exactness_key(origins),
            control_maps=await asyncio.to_thread(maps_of, plan.controls, annotated),
            usage=usage_of(request, plan.hires),
            upscaler=", ".join(dict.fromkeys(picture.made_by for picture in (*made_before, *large))) or None,
            pictures=tuple(Picture(data=data, seed=seed) for data, seed in zip(files, plan.seeds, strict=True)),
        )

    async def _encode(self, model: str, fitted: FittedInputs) -> tuple[InitialImage | None, Sequence[Origin]]:
        if fitted.pixels is None:
            return None, []
        encoded = await self.stages.encode(model, fitted.pixels[None])
        mask = None if fitted.mask is None else mask_of_latents(fitted.mask, pixels_per_latent=PIXELS_PER_LATENT)
        return InitialImage(mean=encoded.mean[0], std=encoded.std[0], mask=mask), [encoded.origin]

    async def _draw_again(
        self, plan: Plan, request: DenoiseRequest, pixels: Pixels, listener: Listener | None
    ) -> tuple[Pixels, Sequence[Upscaled], Sequence[Origin]]:
        """The second pass of `hires`: larger by the upscaler, then image-to-image with the same texts and seeds."""
        if plan.hires is None:
            return pixels, [], []
        large = await self._enlarged(plan.hires.upscale, pixels, plan.reproducibility)
        # Picture by picture: the bits of one must not depend on how many come with it.
        encoded = [await self.stages.encode(plan.model, picture.pixels[None]) for picture in large]
        again = [
            replace(
                request,
                request_id=RequestId(f"{request.request_id}-{index}"),
                height=plan.hires.size.height,
                width=plan.hires.size.width,
                seeds=(seed,),
                sampling=plan.hires.sampling,
                initial_image=InitialImage(mean=posterior.mean[0], std=posterior.std[0]),
                # They go step by step together: one tells of all.
                wants_steps=request.wants_steps and index == 0,
                num_previews=0,
            )
            for index, (seed, posterior) in enumerate(zip(plan.seeds, encoded, strict=True))
        ]
        hear = None if listener is None else listener.of_pass()
        denoised = await asyncio.gather(*(self._denoise(one, hear) for one in again))
        decoded = await self.stages.decode(plan.model, np.concatenate([one.latents for one in denoised]))
        stages: list[Upscaled | EncodedPictures | Denoised] = [*large, *encoded, *denoised]
        return decoded.pixels, large, [*(answer.origin for answer in stages), decoded.origin]

    async def _enlarged(
        self, step: PlannedUpscale, pixels: Pixels, reproducibility: Reproducibility
    ) -> list[Upscaled]:
        """The pictures [pictures, height, width, 3] as large as the step has them."""
        size = step.size
        return await asyncio.gather(
            *(
                self.stages.upscale(step.upscaler, picture, reproducibility, width=size.width, height=size.height)
                for picture in pixels
            )
        )

    async def _annotate(self, control: PlannedControl, picture: ControlImage) -> Annotated:
        """The map drawn from the client's picture, or that picture if it is the map."""
        if control.annotation is None:
            return Annotated(picture, Origin(""))
        return await self.stages.annotate(control.annotation, picture)

    async def _denoise(self, request: DenoiseRequest, hear: Hear | None) -> Denoised:
        async with self.stages.denoise(request) as events:
            async for event in events:
                if isinstance(event, Denoised):
                    return event
                if hear is not None:
                    hear(event)
        raise ReplicaLost("The denoiser's stream ended without latents.")
