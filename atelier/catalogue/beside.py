"""JSON or YAML beside a file of weights, which describes it. It may come from anywhere, so its size is bounded."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from atelier.catalogue.header import Refused, bounded_json

#: Maximum size of a JSON and of a YAML, which takes longer to read.
_MAX_JSON_BYTES, _MAX_YAML_BYTES = 2**20, 2**16


def read_fields(file: Path) -> dict[str, object]:
    """Read the fields of a JSON or YAML file. Raises Refused if it is wrong, or too large."""
    is_json = file.suffix == ".json"
    max_bytes = _MAX_JSON_BYTES if is_json else _MAX_YAML_BYTES
    try:
        with file.open("rb") as opened:
            text = opened.read(max_bytes + 1)
    except OSError as error:
        raise Refused(f"{file.name} cannot be read: {error.strerror}") from error
    if len(text) > max_bytes:
        raise Refused(f"{file.name} is larger than {max_bytes} bytes")
    fields = bounded_json(text, file.name) if is_json else _yaml(text, file.name)
    if not isinstance(fields, dict):
        raise Refused(f"{file.name} is not a {'JSON object' if is_json else 'YAML mapping'}")
    return fields


def mistake(error: ValidationError) -> str:
    """Return the first mistake of a validation, without the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    place, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _yaml(text: bytes, name: str) -> object:
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Refused(f"{name} is not valid YAML") from error
