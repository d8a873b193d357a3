"""The outcome of a request: image files, the control maps drawn for it, and what it used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from atelier.core.control import ControlKind
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.origin import ExactnessKey
from atelier.core.params.controls import ControlParams
from atelier.imaging.formats import write_picture
from atelier.imaging.inputs import blend
from atelier.pipeline.inputs import Inputs
from atelier.pipeline.metadata import metadata_of
from atelier.pipeline.provenance import Provenance
from atelier.pipeline.resolve import Plan
from atelier.pipeline.stages import Annotated, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A finished image."""

    #: The encoded file.
    data: bytes
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlMap:
    """A control map that was drawn from an image."""

    kind: ControlKind
    #: A PNG file.
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of the texts, and latent positions (8 × 8 pixels) of the images."""

    text_tokens: int
    input_image_tokens: int
    output_image_tokens: int

    def share(self, index: int, num_images: int) -> Usage:
        """Return the usage of one image of several; input is counted for the first image only."""
        return Usage(
            text_tokens=self.text_tokens if index == 0 else 0,
            input_image_tokens=self.input_image_tokens if index == 0 else 0,
            output_image_tokens=self.output_image_tokens // num_images,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a request: images, control maps, upscaler and usage."""

    request_id: RequestId
    plan: Plan
    provenance: Provenance
    #: The images, in the order of their seeds.
    pictures: tuple[Picture, ...]
    usage: Usage
    #: Names of the upscalers that enlarged the images, in `hires` or at the end; None if there was no enlargement.
    upscaler: str | None
    #: Control maps that were drawn for this request, in the order of its controls.
    control_maps: tuple[ControlMap, ...]
    #: Whether the images come from the cache.
    is_cached: bool = False

    @property
    def exactness_key(self) -> ExactnessKey:
        """Hash of all that the bits of an `exact` request depend on."""
        return self.provenance.exactness_key


def paint_over(pixels: Pixels, inputs: Inputs) -> Pixels:
    """Return the images [images, height, width, 3] with the client's own pixels where inpainting keeps them."""
    if inputs.init_image is None or inputs.mask is None:
        return pixels
    return np.stack([blend(painted, inputs.init_image, inputs.mask) for painted in pixels])


def picture_files(images: Sequence[Pixels], plan: Plan, provenance: Provenance) -> tuple[Picture, ...]:
    """Encode the images as files, each with its own seed and metadata."""
    output_format, quality = plan.params.output_format, plan.params.output_compression

    def file(pixels: Pixels, seed: int) -> bytes:
        return write_picture(pixels, output_format, quality=quality, metadata=metadata_of(plan, seed, provenance))

    return tuple(Picture(data=file(pixels, seed), seed=seed) for pixels, seed in zip(images, plan.seeds, strict=True))


def map_files(controls: Sequence[ControlParams], drawn_maps: Sequence[Annotated | None]) -> tuple[ControlMap, ...]:
    """Encode the drawn control maps as files."""
    return tuple(
        to_control_map(control.kind, drawn)
        for control, drawn in zip(controls, drawn_maps, strict=True)
        if control.kind is not None and drawn is not None
    )


def to_control_map(kind: ControlKind, drawn: Annotated) -> ControlMap:
    """Encode a control map as a PNG file."""
    return ControlMap(kind=kind, data=write_picture(drawn.control_image, "png"))


def usage_of(first: DenoiseRequest, plan: Plan) -> Usage:
    """Return the usage of all images together; an image that is denoised twice counts at both sizes."""
    positions = [pass_.size.num_latent_positions for pass_ in plan.passes]
    conditioning = first.conditioning
    negative_tokens = 0 if conditioning.negative is None else conditioning.negative.num_tokens
    return Usage(
        text_tokens=conditioning.positive.num_tokens + negative_tokens,
        input_image_tokens=positions[0] * ((first.init_image is not None) + len(first.controls)),
        output_image_tokens=sum(positions) * len(plan.seeds),
    )


def joined_names(upscalers: Iterable[str]) -> str | None:
    """Return the distinct names of the images' upscalers, joined by commas; None if there are none."""
    return ", ".join(dict.fromkeys(upscalers)) or None
