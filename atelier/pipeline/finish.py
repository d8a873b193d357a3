"""The last part of a generation: its images are enlarged if that is asked for, and written as files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from atelier.core.denoising import RequestId
from atelier.pipeline.prepare import upscale_images
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.resolve import Plan
from atelier.pipeline.results import ControlMap, Result, Usage, joined_names, picture_files
from atelier.pipeline.stages import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The images of a generation, before they are finished."""

    #: One image [height, width, 3] per seed.
    images: Sequence[Pixels]
    control_maps: tuple[ControlMap, ...]
    usage: Usage
    #: Names of the upscalers that have enlarged the images.
    upscalers: tuple[str, ...]
    provenance: Provenance
    #: Whether the images have been enlarged by `upscale` already.
    is_enlarged: bool = False


async def finish(request_id: RequestId, plan: Plan, drawn: Drawn, stages: RequestStages) -> Result:
    """Enlarge the images, if the plan says so, and write their files. Errors of the stage are passed on."""
    images, upscalers, provenance, params = drawn.images, drawn.upscalers, drawn.provenance, plan.params
    if params.upscale is not None and not drawn.is_enlarged:
        upscaled = await upscale_images(images, plan.image_size, params.upscale.model, params.reproducibility, stages)
        provenance.record(*upscaled)
        images = [image.pixels for image in upscaled]
        upscalers = (*upscalers, *(image.upscaler for image in upscaled))
    return Result(
        request_id=request_id,
        plan=plan,
        provenance=provenance,
        pictures=await asyncio.to_thread(picture_files, images, plan, provenance),
        control_maps=drawn.control_maps,
        usage=drawn.usage,
        upscaler=joined_names(upscalers),
    )
