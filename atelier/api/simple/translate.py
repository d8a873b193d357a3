"""Translation of the simple routes' fields into `GenerateParams`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atelier.api.simple.schemas import SimpleImageParams, SimpleParams
from atelier.core.errors import AtelierError, InvalidParameter, LoraNotFound, ModelNotFound
from atelier.core.params import GenerateParams, parse
from atelier.core.params.generate import AUTO

#: Our names of fields, and theirs.
_SENT_AS = {"num_inference_steps": "steps", "size": "width"}


def simple_params(asked: SimpleParams) -> GenerateParams:
    """Convert a request to `GenerateParams`. Raises InvalidParameter if its prompt is blank."""
    fields: dict[str, object] = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "model": asked.model,
        "loras": [lora.model_dump(exclude_none=True) for lora in asked.loras],
        "num_inference_steps": asked.steps,
        "guidance_scale": asked.guidance_scale,
        "seed": asked.seed,
        "size": AUTO if asked.width is None else f"{asked.width}x{asked.height}",
        "sampler": asked.sampler,
    }
    if isinstance(asked, SimpleImageParams):
        fields["cache"] = asked.cache
    return parse(GenerateParams, fields)


@contextmanager
def errors_of_simple_routes() -> Iterator[None]:
    """Answer 400 for what is not served here, and name fields as these routes do."""
    try:
        yield
    except (ModelNotFound, LoraNotFound) as error:
        raise InvalidParameter(error.message, param=error.param or "model") from error
    except AtelierError as error:
        theirs = _SENT_AS.get(error.param or "")
        if theirs is None:
            raise
        raise InvalidParameter(error.message.replace(str(error.param), theirs), param=theirs) from error
