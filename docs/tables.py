"""Tables of pydantic models in Markdown: a row per field, with its type, its range and its default in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

_ROOT = Path(__file__).parents[1]
_HEADER = ("field", "type, range", "default", "description")

Schema = Mapping[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(lines_of)} |" for lines_of in lines)


def field_table(kind: type[BaseModel], names: Sequence[str] = ()) -> str:
    """Return a Markdown table of the named fields of a pydantic model, by default of all its fields."""
    schema = kind.model_json_schema()
    properties, required = schema["properties"], schema.get("required", [])
    return table(
        _HEADER,
        (
            (
                f"`{name}`",
                type_in_words(properties[name]),
                "required" if name in required else default_in_words(properties[name].get("default")),
                properties[name].get("description", ""),
            )
            for name in names or properties
        ),
    )


def type_in_words(schema: Schema) -> str:
    """Describe the type and range that a JSON schema allows, such as `integer, 1 … 150`."""
    if "anyOf" in schema:
        words = [type_in_words(option) for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(words))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "contentMediaType" in schema or "image_url" in schema.get("properties", {}):
        return "image"
    match schema.get("type"):
        case "array":
            return _with_limit(_list_of(schema["items"]), schema.get("maxItems"), "")
        case "string":
            return _with_limit("text", schema.get("maxLength"), " characters")
        case "boolean":
            return "true or false"
        case "integer" | "number" as name:
            return ", ".join(filter(None, [name, _range(schema)]))
        case _:
            return "object"


def default_in_words(value: object) -> str:
    """A default as a client or a config would write it."""
    match value:
        case None | []:
            return "—"
        case "":
            return "empty"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"`{_number(value).replace(',', '_').replace('−', '-')}`"
        case list():
            return f"`[{', '.join(map(str, value))}]`"
        case _:
            return f"`{str(value).removeprefix(f'{_ROOT}/')}`"


def _list_of(items: Schema) -> str:
    if "enum" in items:
        return f"list of {type_in_words(items)}"
    if "anyOf" in items or "contentMediaType" in items:
        return f"list of {type_in_words(items)}s"
    return "list of texts" if items.get("type") == "string" else "list of objects"


def _with_limit(name: str, limit: int | None, unit: str) -> str:
    return name if limit is None else f"{name}, at most {_number(limit)}{unit}"


def _range(schema: Schema) -> str:
    """Describe the range of a number, such as `1 … 150`; an exclusive minimum is written `> 0`."""
    low = f"> {_number(schema['exclusiveMinimum'])}" if "exclusiveMinimum" in schema else ""
    if "minimum" in schema:
        low = _number(schema["minimum"])
    if "maximum" in schema:
        return f"{low} … {_number(schema['maximum'])}"
    return f"≥ {low}" if "minimum" in schema else low


def _number(value: float) -> str:
    """A number with commas between thousands, and without a fraction that is zero."""
    return f"{int(value):,}".replace("-", "−") if value == int(value) else str(value)
