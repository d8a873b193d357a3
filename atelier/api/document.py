"""The OpenAPI document: what FastAPI derives from the routes, with bodies as named schemas and optional API keys."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_SCHEMAS = "#/components/schemas/"
#: FastAPI documents its own validation errors, but all fields are checked by `atelier.core.params` here.
_NOT_ANSWERED = "422"
_FASTAPIS_ERRORS = ("HTTPValidationError", "ValidationError")
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "Clients may send an API key, as OpenAI's do; this server ignores it so far.",
}


class DocumentedApp(FastAPI):
    """A FastAPI application that completes its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        is_made = self.openapi_schema is not None
        document = super().openapi()
        if not is_made:
            _complete(document)
        return document


def _complete(document: dict[str, Any]) -> None:
    components = document["components"]
    for name in _FASTAPIS_ERRORS:
        components["schemas"].pop(name, None)
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"].pop(_NOT_ANSWERED, None)
            for body in operation.get("requestBody", {}).get("content", {}).values():
                body["schema"] = _named(body["schema"], components["schemas"])
    components["securitySchemes"] = {"key": _KEY}
    document["security"] = [{}, {"key": []}]


def _named(node: Any, schemas: dict[str, Any]) -> Any:
    """Move the schemas of objects into `schemas`, by their titles, and return references to them."""
    if isinstance(node, list):
        return [_named(item, schemas) for item in node]
    if not isinstance(node, dict):
        return node
    named = {key: _named(value, schemas) for key, value in node.items() if key != "$defs"}
    for definition in node.get("$defs", {}).values():
        _named(definition, schemas)
    if "properties" not in node:
        return named
    known = schemas.setdefault(node["title"], named)
    assert known == named, f"two schemas are named {node['title']}"
    return {"$ref": f"{_SCHEMAS}{node['title']}"}
