"""Translation of the simple routes' fields into `GenerateParams`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from atelier.api.simple.schemas import SimpleImageParams, SimpleParams
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import AtelierError, InvalidParameter, LoraNotFound, ModelNotFound
from atelier.core.params import GenerateParams, parse
from atelier.core.params.generate import AUTO

#: Our names of fields, and theirs.
_SENT_AS = {"num_inference_steps": "steps", "size": "width"}
#: Defaults of these routes, but not for models that are distilled to fewer steps than `_MIN_STEPS`.
_STEPS, _GUIDANCE_SCALE = 30, 7.5
_MIN_STEPS = 10


def simple_params(asked: SimpleParams, catalogue: Catalogue) -> GenerateParams:
    """Convert a request to `GenerateParams`. Raises ModelNotFound, and InvalidParameter if its prompt is blank."""
    is_distilled = catalogue.model(asked.model).defaults.num_inference_steps < _MIN_STEPS
    steps, guidance_scale = (None, None) if is_distilled else (_STEPS, _GUIDANCE_SCALE)
    fields: dict[str, object] = {
        "prompt": asked.prompt,
        "negative_prompt": asked.negative_prompt,
        "model": asked.model,
        "loras": [lora.model_dump(exclude_none=True) for lora in asked.loras],
        "num_inference_steps": steps if asked.steps is None else asked.steps,
        "guidance_scale": guidance_scale if asked.guidance_scale is None else asked.guidance_scale,
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
