"""Answers of the Router to handle calls, as plain data: a caller reads them without `atelier` installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atelier.api.openai.answers import usage
from atelier.api.openai.schemas import AnswerFormat
from atelier.core.params import OutputFormat
from atelier.imaging.formats import MEDIA_TYPES
from atelier.imaging.inputs import image_size
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.events import Event, Planned, Preview, Step
from atelier.pipeline.results import ControlMap, Result
from atelier.pipeline.upscaling import UpscaledImage

#: Fields of text, numbers, bytes, None, and lists and dicts of these.
Answer = dict[str, object]
#: A delivered file: `{"image": bytes}` or `{"url": path}`.
DeliveredAs = Mapping[str, object]


async def delivered(
    delivery: Delivery, data: bytes, output_format: OutputFormat, response_format: AnswerFormat | None
) -> DeliveredAs:
    """Return the bytes of a file or, if the caller asked for a URL, store the file and return its path."""
    if response_format != "url":
        return {"image": data}
    return {"url": (await delivery.deliver(data, output_format, response_format)).url}


def images_answer(result: Result, files: Sequence[DeliveredAs]) -> Answer:
    """Return the answer to a generation, an edit or a variation; `files` are the images in their order."""
    return {
        "request_id": result.request_id,
        "exactness_key": result.exactness_key,
        "cached": result.is_cached,
        "size": str(result.plan.image_size),
        "usage": usage(result.usage).model_dump(),
        "upscaler": result.upscaler,
        "control_maps": [control_map_answer(drawn) for drawn in result.control_maps],
        "images": [
            {
                **file,
                "media_type": MEDIA_TYPES[result.plan.params.output_format],
                "seed": picture.seed,
                "parameters": result.plan.parameters(picture.seed),
            }
            for picture, file in zip(result.pictures, files, strict=True)
        ],
    }


def event_answer(event: Event, output_format: OutputFormat) -> Answer:
    """Return an event of a stream; its `type` is planned, step, preview or result. Images are bytes."""
    match event:
        case Planned():
            size, seeds = str(event.plan.image_size), list(event.plan.seeds)
            return {"type": "planned", "request_id": event.request_id, "size": size, "seeds": seeds}
        case Step():
            times = {"elapsed_s": event.elapsed_s, "eta_s": event.eta_s}
            return {"type": "step", "step": event.step, "total": event.total, **times}
        case Preview():
            media_type = MEDIA_TYPES[output_format]
            images = [{"image": file, "media_type": media_type} for file in event.files]
            return {"type": "preview", "index": event.index, "images": images}
        case Result():
            return {"type": "result", **images_answer(event, [{"image": picture.data} for picture in event.pictures])}


def control_map_answer(drawn: ControlMap) -> Answer:
    """Return a control map, a PNG."""
    size = image_size(drawn.data, param="image")
    return {"image": drawn.data, "media_type": MEDIA_TYPES["png"], "kind": drawn.kind, "size": str(size)}


def upscaled_answer(upscaled: UpscaledImage, file: DeliveredAs, output_format: OutputFormat) -> Answer:
    """Return an enlarged image."""
    media_type, size = MEDIA_TYPES[output_format], str(upscaled.size)
    return {**file, "media_type": media_type, "size": size, "upscaler": upscaled.upscaler}
