"""A multipart form as the fields of a request: uploads as bytes, everything else as what its field is.

All values of a form are text; a field that is no text is read as JSON, so that `n=2`, `stream=false` and
`loras=[{"model": "x"}]` mean what they say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from atelier.core.errors import MalformedBody

_MAX_FILES, _MAX_FIELDS = 20, 100


async def form_fields(request: Request, kind: type[BaseModel], *, lists: frozenset[str]) -> Mapping[str, object]:
    """Read a form whose names in `lists` may come several times, also with `[]` behind them.

    Raises:
        MalformedBody: it is no multipart form, or a name comes twice.
    """
    fields: dict[str, object] = {}
    several: dict[str, list[object]] = {}
    try:
        async with request.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS) as form:
            for key, value in form.multi_items():
                name, _, inner = key.removesuffix("[]").partition("[][")
                read = await value.read() if isinstance(value, UploadFile) else _typed(value, name, kind)
                if inner:
                    _add(several.setdefault(name, []), inner.removesuffix("]"), read)
                elif name in lists:
                    several.setdefault(name, []).append(read)
                elif name in fields:
                    raise MalformedBody(f"The field {name!r} comes more than once.", param=name)
                else:
                    fields[name] = read
    except HTTPException as error:
        raise MalformedBody(f"The body is not a readable multipart form: {error.detail}") from error
    return {**fields, **several}


def _add(records: list[object], name: str, value: object) -> None:
    """Clients send a list of objects as `name[][field]`: a field that the last object has begins the next one."""
    last = records[-1] if records else None
    if not isinstance(last, dict) or name in last:
        records.append(last := {})
    last[name] = value


def _typed(text: str, name: str, kind: type[BaseModel]) -> object:
    field = kind.model_fields.get(name)
    if field is None or _takes_text(field.annotation):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _takes_text(annotation: object) -> bool:
    members = get_args(annotation)
    return annotation is str or any(
        member is str or isinstance(member, str) or _takes_text(member) for member in members
    )
