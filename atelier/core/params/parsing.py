"""Validates a client's fields into params, with errors that name the field, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from atelier.core.errors import AtelierError, InvalidParameter, NotSupported, UnknownParameter

MAX_NAME_CHARS = 200


class Params(BaseModel):
    """Base class for the fields of a request: strict types, no unknown names, frozen."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    #: Fields that are not implemented yet, with the values that are accepted because they change nothing.
    not_built: ClassVar[Mapping[str, Sequence[object]]] = {}


P = TypeVar("P", bound=Params)


def parse(kind: type[P], fields: Mapping[str, object]) -> P:
    """Check a client's fields; null is the same as an absent field.

    Raises:
        UnknownParameter: a name that is not a field.
        NotSupported: a field that is not built yet, with a value that would change something.
        InvalidParameter: a value of the wrong type or out of range; `param` names the field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    for name, harmless in kind.not_built.items():
        if name in given:
            refuse_unless_harmless(name, given.pop(name), harmless)
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _translate(error, kind) from error


def refuse_unless_harmless(name: str, value: object, harmless: Sequence[object]) -> None:
    """Raise NotSupported unless the value of an unimplemented field is among `harmless`, which change nothing."""
    if value not in harmless:
        raise NotSupported(f"{name} is not supported by this server yet.", param=name)


def _translate(error: ValidationError, kind: type[Params]) -> AtelierError:
    """Convert the first of pydantic's errors into InvalidParameter or UnknownParameter."""
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:
        return InvalidParameter(problem["msg"], param=problem.get("ctx", {}).get("param"))
    name = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _model_at(problem["loc"], kind).model_fields
        return UnknownParameter(f"Unknown field {name!r}. Known fields: {', '.join(known)}.", param=name)
    if problem["type"] == "missing":
        return InvalidParameter(f"{name} is required.", param=name)
    return InvalidParameter(f"{name}: {problem['msg']}; got {_quoted(problem['input'], name)}.", param=name)


def _model_at(location: Sequence[str | int], kind: type[Params]) -> type[Params]:
    """Return the params class that the last name of a pydantic error location belongs to."""
    for name in location[:-1]:
        field = kind.model_fields.get(str(name))
        kind = kind if field is None else next(_models(field.annotation), kind)
    return kind


def _models(annotation: object) -> Iterator[type[Params]]:
    if isinstance(annotation, type) and issubclass(annotation, Params):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)


def _quoted(value: object, name: str) -> str:
    """Quote the value for an error message; prompts are left out, because errors of handle calls are logged."""
    if "prompt" in name:
        return f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _path(location: Sequence[str | int]) -> str:
    """Return the path of a field, such as `controls[0].scale`."""
    first, *others = location
    path = str(first) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in others)
    return _shortened(path)
