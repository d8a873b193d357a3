"""Reads the fields of a multipart form or, on the same route, of a JSON object.

Uploads are read as bytes, other values in the type of their field. A form sends values as text; if the field's type
is not text, the value is read as JSON: `n=2`, `stream=false`, `controls=[{"kind": "canny", …}]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from atelier.api.body import is_json, json_fields, parse_json
from atelier.core.errors import MalformedBody, UnsupportedMediaType

_MAX_FILES, _MAX_FIELDS = 20, 100
#: Maximum size of a text part, in bytes; large enough that only the limit of the whole body applies.
_MAX_PART_BYTES = 2**40
#: `name[][field]`, split at its first `[`, leaves a path that begins with this.
_RECORD = "]["


def is_form(request: Request) -> bool:
    """Return whether the body is declared as a multipart form."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def form_or_json_fields(
    request: Request, kind: type[BaseModel], *, lists: frozenset[str] = frozenset()
) -> Mapping[str, object]:
    """Read the fields of a multipart form, whose images are uploads, or of a JSON object, whose images are base64.

    Raises UnsupportedMediaType for any other content type, and MalformedBody for a body that cannot be read.
    """
    if is_form(request):
        return await form_fields(request, kind, lists=lists)
    if is_json(request):
        return await json_fields(request)
    sent = request.headers.get("content-type", "none")
    raise UnsupportedMediaType(f"The content type must be application/json or multipart/form-data; got {sent[:80]}.")


async def form_fields(request: Request, kind: type[BaseModel], *, lists: frozenset[str]) -> Mapping[str, object]:
    """Read the fields of a form; names in `lists` may be repeated, with or without `[]` after them.

    Objects may be sent as JSON or field by field: as `name[field]`, or as `name[][field]` in a list of objects. Empty
    fields count as absent.

    Raises:
        MalformedBody: the body is not a multipart form; a field outside `lists` is repeated; a field is sent in two
            ways; or the fields of `name[][field]` are not repeated equally often.
    """
    values: dict[str, dict[str, list[object]]] = {}
    try:
        async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=_MAX_PART_BYTES) as form:
            for key, value in form.multi_items():
                if _is_empty(value):
                    continue
                name, _, path = key.removesuffix("[]").removesuffix("]").partition("[")
                read = await value.read() if isinstance(value, UploadFile) else _typed(value, name, kind)
                values.setdefault(name, {}).setdefault(path, []).append(read)
    except (HTTPException, UnicodeError) as error:
        reason = error.detail if isinstance(error, HTTPException) else error
        raise MalformedBody(f"The body is not a readable multipart form: {reason}") from error
    return {name: _field(name, of_paths, is_list=name in lists) for name, of_paths in values.items()}


def _is_empty(value: UploadFile | str) -> bool:
    """Return whether the value is what a browser sends for a field that was left empty."""
    return not value.filename and not value.size if isinstance(value, UploadFile) else not value


def _field(name: str, of_paths: Mapping[str, list[object]], *, is_list: bool) -> object:
    """Return the value of the field `name`. `of_paths` has its values by path: "" for `name`, "x" for `name[x]`."""
    if all(path.startswith(_RECORD) for path in of_paths):
        return _records(name, {path.removeprefix(_RECORD): values for path, values in of_paths.items()})
    is_plain = set(of_paths) == {""}
    if is_plain and is_list:
        return of_paths[""]
    if any(len(values) > 1 for values in of_paths.values()):
        raise MalformedBody(f"The field {name!r} is sent more than once.", param=name)
    if is_plain:
        return of_paths[""][0]
    if any(not path or path.startswith(_RECORD) for path in of_paths):
        raise MalformedBody(f"The field {name!r} is sent in two ways.", param=name)
    return {path: value for path, [value] in of_paths.items()}


def _records(name: str, columns: Mapping[str, list[object]]) -> list[object]:
    """Return a list of objects sent as repeated `name[][field]`: value i of every field belongs to object i."""
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise MalformedBody(
            f"The fields of {name}[] are repeated unequally, so they cannot be assigned to objects; send {name} as "
            "one JSON text.",
            param=name,
        )
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _typed(text: str, name: str, kind: type[BaseModel]) -> object:
    field = kind.model_fields.get(name)
    if field is None or _takes_text(field.annotation):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def _takes_text(annotation: object) -> bool:
    members = get_args(annotation)
    return annotation is str or any(
        member is str or isinstance(member, str) or _takes_text(member) for member in members
    )
