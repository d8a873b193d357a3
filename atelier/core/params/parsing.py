"""Validates a client's fields into params, with errors that name the field, the value and what is allowed."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from atelier.core.errors import AtelierError, InvalidParameter, NotSupported, UnknownParameter

MAX_NAME_CHARS = 200

#: Names that clients of other servers send, and the fields that they mean.
_OTHER_NAMES = {
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "width": "size",
    "height": "size",
    "sampler_name": "sampler",
    "scheduler": "schedule",
    "denoising_strength": "strength",
    "batch_size": "n",
    "num_images": "n",
    "num_images_per_prompt": "n",
    "mask": "mask_image",
    "control_image": "controls",
    "scale": "weight",
}
_QUOTED_CHARS = 80

_quote = reprlib.Repr()
_quote.maxstring = _quote.maxother = 4 * _QUOTED_CHARS


class NotBuilt(NamedTuple):
    """A field that is not implemented yet."""

    #: The value that is accepted, because it changes nothing.
    harmless: object
    #: What a client can do instead.
    instead: str


class Params(BaseModel):
    """Base class for the fields of a request: strict types, no unknown names, frozen."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        # So that a default is serialised as the same value that a client sends: 0.0, not 0.
        validate_default=True,
    )

    #: Fields that are not implemented yet, by their names.
    not_built: ClassVar[Mapping[str, NotBuilt]] = {}

    @model_validator(mode="before")
    @classmethod
    def _has_only_known_names(cls, fields: object) -> object:
        """Stop at the first unknown name, because pydantic would make an error for each."""
        if isinstance(fields, Mapping):
            for name in fields:
                if name not in cls.model_fields:
                    context = {"name": str(name), "hint": _hint(str(name), cls.model_fields)}
                    raise PydanticCustomError(_UNKNOWN, "unknown field", context)
        return fields


P = TypeVar("P", bound=Params)

_UNKNOWN = "unknown_field"


def at_most(max_items: int) -> BeforeValidator:
    """Reject a list that is too long before pydantic checks its elements and makes an error for each."""

    def check(value: object) -> object:
        if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) > max_items:
            raise PydanticCustomError("too_long", f"must have at most {max_items} items, not {len(value)}")
        return value

    return BeforeValidator(check)


def parse(kind: type[P], fields: Mapping[str, object]) -> P:
    """Check a client's fields; null is the same as an absent field.

    Raises:
        UnknownParameter: a name that is not a field.
        NotSupported: a field that is not built yet, with a value that would change something.
        InvalidParameter: a value of the wrong type or out of range; `param` names the field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name, field in kind.not_built.items():
        if name in given:
            refuse_unless_harmless(name, given.pop(name), field)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _translate(error) from error


def refuse_unless_harmless(name: str, value: object, field: NotBuilt) -> None:
    """Raise NotSupported unless the value of an unimplemented field is the one that changes nothing."""
    if value != field.harmless:
        raise NotSupported(f"{name} is not supported; {field.instead}.", param=name)


def _translate(error: ValidationError) -> AtelierError:
    """Convert the first of pydantic's errors into InvalidParameter or UnknownParameter."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == _UNKNOWN:
        name = _path([*problem["loc"], problem["ctx"]["name"]])
        return UnknownParameter(f"Unknown field {name!r}. {problem['ctx']['hint']}", param=name)
    if not problem["loc"]:
        return InvalidParameter(problem["msg"], param=problem.get("ctx", {}).get("param"))
    name = _path(problem["loc"])
    if problem["type"] == "missing":
        return InvalidParameter(f"{name} is required.", param=name)
    return InvalidParameter(f"{name}: {problem['msg']}; got {_quoted(problem['input'], name)}.", param=name)


def _hint(name: str, known: Collection[str]) -> str:
    """Return advice on an unknown name: the field that is probably meant, and all that are known."""
    meant = _OTHER_NAMES.get(name)
    close = [meant] if meant in known else difflib.get_close_matches(name[:MAX_NAME_CHARS], known, n=1)
    question = [f"Did you mean {close[0]!r}?"] if close else []
    return " ".join([*question, f"Known fields: {', '.join(known)}."])


def _quoted(value: object, name: str) -> str:
    """Quote the value for an error message; prompts are left out, because errors of handle calls are logged."""
    if "prompt" in name:
        return f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
    return _shortened(_quote.repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARS else f"{text[: _QUOTED_CHARS - 3]}..."


def _path(location: Sequence[str | int]) -> str:
    """Return the path of a field, such as `controls[0].scale`."""
    first, *others = location
    path = str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in others)
    return _shortened(path)
