"""Parts of responses that OpenAI's routes and the server's own share."""

from __future__ import annotations

import base64

from pydantic import BaseModel, Field

from atelier.core.control import ControlKind
from atelier.pipeline.results import ControlMap as DrawnMap

#: OpenAPI 3.2 `itemSchema` of a `text/event-stream` response: one server-sent event, as FastAPI describes it.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "object"}},
    },
    "required": ["event", "data"],
}


class File(BaseModel):
    """An image file, in base64 or behind a URL."""

    b64_json: str | None = None
    url: str | None = Field(
        None, description="URL of the file; valid for the server's time to live, one hour by default."
    )


class ControlMap(BaseModel):
    """A control map that was drawn from an image."""

    kind: ControlKind
    b64_json: str = Field(description="A PNG.")


def control_map(drawn: DrawnMap) -> ControlMap:
    """Convert a control map to its response model, with the file in base64."""
    return ControlMap(kind=drawn.kind, b64_json=base64.b64encode(drawn.data).decode("ascii"))
