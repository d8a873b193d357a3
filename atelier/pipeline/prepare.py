"""Prepares the engine's request from a plan: one function per kind of input, run concurrently."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence

import numpy as np

from atelier.core.control import ControlImage
from atelier.core.denoising import DenoiseRequest, InitImage, Pass, RequestId
from atelier.core.errors import InvalidParameter
from atelier.core.geometry import Size
from atelier.core.params.controls import ControlParams
from atelier.core.sampling import Reproducibility
from atelier.imaging.inputs import to_latent_mask
from atelier.pipeline.controls import annotation_of, to_control
from atelier.pipeline.events import Reports
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.request_stages import RequestStages
from atelier.pipeline.resolve import Plan
from atelier.pipeline.stages import Annotated, EncodedLatents, EncodedTexts, Pixels, Upscaled

#: Control maps drawn for a request, in the order of its controls; None if the client sent the map itself.
DrawnMaps = tuple[Annotated | None, ...]


async def prepare(
    request_id: RequestId, plan: Plan, inputs: Inputs, stages: RequestStages, provenance: Provenance, reports: Reports
) -> tuple[DenoiseRequest, DrawnMaps]:
    """Return the engine's request for the first pass, and the control maps drawn for it.

    Raises InvalidParameter if a model that edits by instructions is sent an image with transparent parts.
    """
    edits = plan.passes[0].image_guidance_scale is not None
    if edits and inputs.mask is not None:
        raise InvalidParameter(
            f"init_image: {plan.model} edits whole images by instructions; send one without transparent parts.",
            param="init_image",
        )
    texts, latents, drawn_maps = await asyncio.gather(
        encode_texts(plan, stages), encode_init_image(plan, inputs, stages), draw_maps(plan, inputs, stages)
    )
    provenance.record(texts, latents, *drawn_maps)
    mask = None if inputs.mask is None else to_latent_mask(inputs.mask)
    request = DenoiseRequest(
        request_id=_pass_id(request_id),
        pass_=plan.passes[0],
        conditioning=texts.conditioning,
        init_image=None if latents is None or edits else InitImage(mean=latents.mean, std=latents.std, mask=mask),
        image_latents=latents.mean / latents.scaling_factor if latents is not None and edits else None,
        controls=tuple(
            to_control(control, sent if drawn is None else drawn.control_image)
            for control, sent, drawn in zip(plan.params.controls, inputs.control_images, drawn_maps, strict=True)
        ),
        priority=plan.params.priority,
        report_steps=reports.steps and not reports.are_steps_sparse,
        num_previews=reports.num_previews,
    )
    return request, drawn_maps


def _pass_id(request_id: RequestId) -> RequestId:
    """Return an id for one pass in the engine: the request's, which a client may repeat, and a random part."""
    return RequestId(f"{request_id}.{secrets.token_hex(3)}")


async def encode_texts(plan: Plan, stages: RequestStages) -> EncodedTexts:
    """Encode the request's prompts."""
    return await stages.encode_texts(plan.model, plan.prompts, plan.params.reproducibility)


async def encode_init_image(plan: Plan, inputs: Inputs, stages: RequestStages) -> EncodedLatents | None:
    """Encode the init image to the VAE's posterior; None if there is no init image."""
    if inputs.init_image is None:
        return None
    return await stages.encode_latents(plan.model, inputs.init_image[None])


async def draw_maps(plan: Plan, inputs: Inputs, stages: RequestStages) -> DrawnMaps:
    """Draw the control maps of those controls that set `annotate`."""

    async def draw(control: ControlParams, image: ControlImage) -> Annotated | None:
        return await stages.annotate(annotation_of(control), image) if control.annotate else None

    return tuple(await asyncio.gather(*map(draw, plan.params.controls, inputs.control_images)))


async def prepare_hires(
    first: DenoiseRequest,
    pass_: Pass,
    pixels: Pixels,
    upscaler: str | None,
    stages: RequestStages,
    provenance: Provenance,
) -> tuple[DenoiseRequest, Sequence[Upscaled]]:
    """Return the engine's request for the second pass of `hires`, and the enlarged images that it starts from.

    The enlarged images are those of the first pass, `pixels`; prompt embeddings and seeds are the first pass's, too.
    """
    upscaled = await upscale_images(pixels, pass_.size, upscaler, pass_.reproducibility, stages)
    # Encode one image per call, because an image's bits must not depend on the number of images in the call.
    encoded = [await stages.encode_latents(pass_.model, image.pixels[None]) for image in upscaled]
    provenance.record(*upscaled, *encoded)
    request = DenoiseRequest(
        request_id=_pass_id(first.request_id),
        pass_=pass_,
        conditioning=first.conditioning,
        init_image=InitImage(
            mean=np.concatenate([latents.mean for latents in encoded]),
            std=np.concatenate([latents.std for latents in encoded]),
        ),
        priority=first.priority,
        report_steps=first.report_steps,
    )
    return request, upscaled


async def upscale_images(
    images: Iterable[Pixels],
    size: Size,
    upscaler: str | None,
    reproducibility: Reproducibility,
    stages: RequestStages,
) -> Sequence[Upscaled]:
    """Upscale images, each [height, width, 3], concurrently."""
    return await asyncio.gather(*(stages.upscale(upscaler, image, size, reproducibility) for image in images))
