"""Translation of OpenAI's fields into `GenerateParams`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from atelier.api.openai.quality import MAX_QUALITY_UPSCALE, guidance_of, steps_of
from atelier.api.openai.schemas import ImagesEditRequest, ImagesParams, ImagesVariationRequest
from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import ModelEntry
from atelier.core.errors import InvalidParameter, NotSupported, UnsupportedValue
from atelier.core.geometry import Size
from atelier.core.params.delivery import OUTPUT_FORMATS
from atelier.core.params.generate import AUTO, GenerateParams
from atelier.core.params.parsing import NotBuilt, Params, parse, refuse_unless_harmless
from atelier.core.params.upscale import HiresStep, UpscaleStep

#: Formats of OpenAI that this server does not write, and the fields that belong to them.
_NOT_WRITTEN = ("gif", "svg")
_NOT_WRITTEN_FIELDS = {"frame_count": "gif", "frame_duration_ms": "gif", "svg": "svg", "complexity": "svg"}
_INSTEAD_OF_STREAMS = "stream over HTTP instead"
#: Streaming fields by handle, where answers cannot be streamed.
_STREAM_FIELDS = {"stream": NotBuilt(False, _INSTEAD_OF_STREAMS), "partial_images": NotBuilt(0, _INSTEAD_OF_STREAMS)}
#: Strength of an edit with high input fidelity.
_HIGH_FIDELITY = 0.5
#: Scales of `hires` and `upscale` that reach a size beyond the model's, for clients that know only OpenAI's sizes.
_ENLARGEMENTS = ((1, 2), (1, 4), (2, 4))

P = TypeVar("P", bound=Params)


def parse_openai(kind: type[P], fields: Mapping[str, object]) -> P:
    """Parse a client's fields, named as in OpenAI's API, into params of this kind.

    Raises:
        UnsupportedValue: a GIF or SVG file is requested, or a field that belongs to those formats.
        NotSupported: a stream is requested on a route that cannot stream, or a field that is not built yet.
        InvalidRequest: a field is unknown or has a value that is not allowed.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if "true_cfg_scale" in given:
        alias = given.pop("true_cfg_scale")
        if given.setdefault("guidance_scale", alias) != alias:
            raise InvalidParameter(
                "guidance_scale and true_cfg_scale are the same setting and differ; send one of them.",
                param="true_cfg_scale",
            )
    for name, field in _STREAM_FIELDS.items():
        if name in given and name not in kind.model_fields:
            refuse_unless_harmless(name, given.pop(name), field)
    for name, file_format in _NOT_WRITTEN_FIELDS.items():
        if name in given:
            raise UnsupportedValue(
                f"{name} belongs to {file_format} files, which this server does not write.", param=name
            )
    if given.get("output_format") in _NOT_WRITTEN:
        raise UnsupportedValue(
            f"output_format: {given['output_format']!r} is not written here; allowed: {', '.join(OUTPUT_FORMATS)}.",
            param="output_format",
        )
    return parse(kind, given)


def generate_params(
    asked: ImagesParams, catalogue: Catalogue, images: Mapping[str, bytes | float | None] | None = None
) -> GenerateParams:
    """Convert a request in OpenAI's dialect to `GenerateParams`.

    `quality` and `style` become steps, enlargement and guidance, unless the request sets those. If the model has one
    of OpenAI's names, a size that is too large for it is drawn smaller and enlarged. `images` replaces `init_image`,
    `mask_image`, `markup_image` and `strength` on routes where OpenAI has other fields for them.

    Raises ModelNotFound.
    """
    entry = catalogue.model(asked.model)
    fields = {name: getattr(asked, name) for name in GenerateParams.model_fields} | dict(images or {})
    if asked.num_inference_steps is None:
        fields["num_inference_steps"] = steps_of(asked.quality, entry, asked.sampler)
    if asked.guidance_scale is None and asked.style is not None:
        fields["guidance_scale"] = guidance_of(asked.style, entry)
    is_plain = asked.hires is None and asked.upscale is None and fields["init_image"] is None and not asked.controls
    if is_plain and asked.size == AUTO and asked.quality == "max":
        fields["upscale"] = MAX_QUALITY_UPSCALE
    if is_plain and asked.size != AUTO and asked.model in entry.aliases:
        fields |= _enlargement(Size.parse(asked.size), entry)
    return GenerateParams.model_construct(**fields)


def _enlargement(size: Size, entry: ModelEntry) -> dict[str, object]:
    """Return the fields that draw a size which is too large for the model at its usual size, and enlarge it.

    There are none if the model draws the size itself, or if it cannot be reached.
    """
    if entry.sides_px.allow(size):
        return {}
    for hires, upscale in _ENLARGEMENTS:
        drawn = size.scaled(1 / (hires * upscale))
        is_exact = drawn.scaled(hires * upscale) == size
        is_usual = drawn.num_pixels <= entry.defaults.size.num_pixels
        if is_exact and is_usual and entry.sides_px.allow(drawn) and entry.sides_px.allow(drawn.scaled(hires)):
            step = None if hires == 1 else HiresStep(scale=hires)
            return {"size": str(drawn), "hires": step, "upscale": UpscaleStep(scale=upscale)}
    return {}


def edit_params(asked: ImagesEditRequest, catalogue: Catalogue) -> GenerateParams:
    """Convert an edit request to `GenerateParams`.

    Raises:
        NotSupported: several images are sent.
        InvalidParameter: an image is sent under two names, or the image to edit as `init_image`.
        ModelNotFound: the model is not served here.
    """
    if len(asked.input_images) > 1:
        raise NotSupported(
            f"{asked.image_field}: an edit of several images is not supported; send one image.",
            param=asked.image_field,
        )
    for theirs, ours in (("mask", "mask_image"), ("markup", "markup_image")):
        if getattr(asked, theirs) is not None and getattr(asked, ours) is not None:
            raise InvalidParameter(f"{theirs}: {ours} is the same; send one of them.", param=theirs)
    takes_strength = not catalogue.model(asked.model).edits
    is_faithful = asked.input_fidelity == "high" and asked.strength is None and takes_strength
    images = {
        "init_image": _sent_image(asked, asked.input_images),
        "mask_image": asked.mask_image if asked.mask is None else asked.mask,
        "markup_image": asked.markup_image if asked.markup is None else asked.markup,
        "strength": _HIGH_FIDELITY if is_faithful else asked.strength,
    }
    return generate_params(asked, catalogue, images)


def variation_params(asked: ImagesVariationRequest, catalogue: Catalogue) -> GenerateParams:
    """Convert a variation request to `GenerateParams`.

    Raises InvalidParameter if the image is sent as `init_image`, or ModelNotFound.
    """
    return generate_params(asked, catalogue, {"init_image": _sent_image(asked, asked.image)})


@contextmanager
def errors_naming_images(sent_as: Mapping[str, str]) -> Iterator[None]:
    """Rename images in InvalidParameter errors to the fields they were sent as, such as `init_image` to `image`."""
    try:
        yield
    except InvalidParameter as error:
        theirs = sent_as.get(error.param or "")
        if theirs is None:
            raise
        message = str(error)
        for ours, name in sent_as.items():
            message = message.replace(ours, name)
        raise InvalidParameter(message, param=theirs) from error


def _sent_image(asked: ImagesEditRequest | ImagesVariationRequest, images: list[bytes]) -> bytes:
    if asked.init_image is not None:
        raise InvalidParameter("init_image: send the image as image here.", param="init_image")
    return images[0]
