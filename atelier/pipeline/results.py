"""What comes out of a request: files, the maps that were drawn for it, and what was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atelier.core.geometry import PIXELS_PER_LATENT
from atelier.core.control import ControlKind
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.origin import ExactnessKey, Origin
from atelier.imaging.formats import encode_picture
from atelier.imaging.inputs import blend
from atelier.pipeline.controls import PlannedControl
from atelier.pipeline.inputs import FittedInputs
from atelier.pipeline.metadata import metadata_of
from atelier.pipeline.plan import Plan
from atelier.pipeline.stages import Annotated, Pixels
from atelier.pipeline.upscaling import PlannedHires


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    #: The encoded file.
    data: bytes
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMap:
    kind: ControlKind
    #: A PNG file.
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What went in and came out: tokens of the texts, and latent positions (8 × 8 pixels) of the pictures."""

    text_tokens: int
    input_image_tokens: int
    output_image_tokens: int

    def share(self, index: int, count: int) -> Usage:
        """Of one of so many pictures: what went in counts with the first."""
        return Usage(
            text_tokens=self.text_tokens if index == 0 else 0,
            input_image_tokens=self.input_image_tokens if index == 0 else 0,
            output_image_tokens=self.output_image_tokens // count,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    request_id: RequestId
    plan: Plan
    exactness_key: ExactnessKey
    pictures: tuple[Picture, ...]
    usage: Usage
    #: What made the pictures larger, for `hires` or at the end, if anything did.
    upscaler: str | None
    #: Those that were drawn for this request, in the order of their controls.
    control_maps: tuple[ControlMap, ...]


def painted_over(pixels: Pixels, fitted: FittedInputs) -> Pixels:
    """What inpainting keeps is the client's own picture again."""
    if fitted.pixels is None or fitted.mask is None:
        return pixels
    return np.stack([blend(painted, fitted.pixels, fitted.mask) for painted in pixels])


def files_of(pixels: Sequence[Pixels], plan: Plan, origins: Sequence[Origin]) -> list[bytes]:
    return [
        encode_picture(
            picture,
            plan.output_format,
            quality=plan.output_compression,
            metadata=metadata_of(plan, seed, origins),
        )
        for picture, seed in zip(pixels, plan.seeds, strict=True)
    ]


def usage_of(request: DenoiseRequest, hires: PlannedHires | None) -> Usage:
    """A picture that is drawn twice counts twice."""
    positions = request.height * request.width // PIXELS_PER_LATENT**2
    again = 0 if hires is None else hires.size.height * hires.size.width // PIXELS_PER_LATENT**2
    negative = request.conditioning.negative
    return Usage(
        text_tokens=request.conditioning.positive.num_tokens + (0 if negative is None else negative.num_tokens),
        input_image_tokens=positions * ((request.initial_image is not None) + len(request.controls)),
        output_image_tokens=(positions + again) * len(request.seeds),
    )


def maps_of(controls: Sequence[PlannedControl], annotated: Sequence[Annotated]) -> tuple[ControlMap, ...]:
    return tuple(
        ControlMap(kind=control.annotation.kind, data=encode_picture(drawn.control_image, "png"))
        for control, drawn in zip(controls, annotated, strict=True)
        if control.annotation is not None
    )
