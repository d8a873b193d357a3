"""Picture of a request's trace, one row per span, from the files that Serve's default exporter has written.

`python -m docs.pictures.waterfall FOLDER REQUEST_ID FILE` reads the files in a folder and writes a PNG. The request's
id is the `x-request-id` of its answer.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

#: Height of a row, width of the names and of the bars, margin, all in pixels.
_ROW_PX, _NAMES_PX, _BARS_PX, _MARGIN_PX = 24, 440, 620, 16
_INK, _GREY, _LINE, _PAPER = "#1a1a1a", "#5c5c5c", "#e4e4e4", "#ffffff"
#: Colour of a bar by the beginning of the span's name; the other spans are those of FastAPI and of Serve's proxy.
_COLOURS = {
    "queue": "#d9a441",
    "steps": "#4f8a5b",
    "route_to_replica": "#b9c4d3",
    "replica_handle_request": "#4a6fa5",
}
_OTHER_COLOUR = "#8a7aa8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span as it was exported; times are in milliseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    #: None at a trace's root.
    parent_id: str | None
    start_ms: float
    end_ms: float
    attributes: dict[str, Any]


def main() -> None:
    """Draw the trace of one request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="such as /tmp/ray/session_latest/logs/serve/spans")
    parser.add_argument("request_id")
    parser.add_argument("file", type=Path, help="the PNG to write")
    options = parser.parse_args()
    spans = trace_of(options.request_id, read_spans(options.folder))
    if not spans:
        parser.error(f"no span in {options.folder} has the request_id {options.request_id}")
    draw(spans).save(options.file, optimize=True)


def read_spans(folder: Path) -> list[Span]:
    """Read the spans of all files in a folder; a file has one object of JSON after the other."""
    return [_span(fields) for file in sorted(folder.iterdir()) for fields in _objects(file.read_text())]


def trace_of(request_id: str, spans: list[Span]) -> list[Span]:
    """Return the spans of the traces that a request is in."""
    traces = {span.trace_id for span in spans if span.attributes.get("request_id") == request_id}
    return [span for span in spans if span.trace_id in traces]


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        fields, end = decoder.raw_decode(text)
        yield fields
        text = text[end:]


def _span(fields: dict[str, Any]) -> Span:
    return Span(
        name=fields["name"],
        trace_id=fields["context"]["trace_id"],
        span_id=fields["context"]["span_id"],
        parent_id=fields["parent_id"],
        start_ms=_ms(fields["start_time"]),
        end_ms=_ms(fields["end_time"]),
        attributes=fields["attributes"],
    )


def _ms(time: str) -> float:
    return 1000 * datetime.fromisoformat(time).timestamp()


def draw(spans: list[Span]) -> Image.Image:
    """Return the picture of one trace, whose root span is as wide as the axis."""
    rows = list(_in_order(spans))
    start_ms, total_ms = rows[0][1].start_ms, rows[0][1].end_ms - rows[0][1].start_ms
    height = (len(rows) + 1) * _ROW_PX + 2 * _MARGIN_PX
    picture = Image.new("RGB", (_NAMES_PX + _BARS_PX + 6 * _MARGIN_PX, height), _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    scale = _BARS_PX / total_ms
    _draw_times(pen, font, total_ms, height)
    for row, (depth, span) in enumerate(rows, 1):
        y = _MARGIN_PX + row * _ROW_PX
        left = _NAMES_PX + (span.start_ms - start_ms) * scale
        right = max(left + 2, _NAMES_PX + (span.end_ms - start_ms) * scale)
        pen.text((_MARGIN_PX + 12 * depth, y + 4), span.name, fill=_INK, font=font)
        pen.rectangle((left, y + 5, right, y + _ROW_PX - 6), fill=_colour(span.name))
        pen.text((right + 5, y + 4), f"{span.end_ms - span.start_ms:.0f} ms", fill=_GREY, font=font)
    return picture


def _in_order(spans: list[Span]) -> Iterator[tuple[int, Span]]:
    """Yield every span after its parent, by start, with the number of its ancestors."""
    known = {span.span_id for span in spans}

    def below(parent_id: str | None, depth: int) -> Iterator[tuple[int, Span]]:
        children = [span for span in spans if (span.parent_id if span.parent_id in known else None) == parent_id]
        for span in sorted(children, key=lambda span: span.start_ms):
            yield depth, span
            yield from below(span.span_id, depth + 1)

    return below(None, 0)


def _draw_times(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, total_ms: float, height: int
) -> None:
    """Draw a line and its time at every round number of milliseconds, four to nine in all."""
    unit_ms = 10 ** math.floor(math.log10(total_ms))
    step_ms = next(unit_ms * part for part in (0.2, 0.5, 1) if total_ms < 9 * unit_ms * part or part == 1)
    for index in range(math.floor(total_ms / step_ms) + 1):
        x = _NAMES_PX + _BARS_PX * index * step_ms / total_ms
        pen.line((x, _MARGIN_PX + _ROW_PX, x, height - _MARGIN_PX), fill=_LINE)
        pen.text((x, _MARGIN_PX + 4), f"{index * step_ms:g} ms", fill=_GREY, font=font, anchor="ma")


def _colour(name: str) -> str:
    return next((colour for start, colour in _COLOURS.items() if name.startswith(start)), _OTHER_COLOUR)


if __name__ == "__main__":
    main()
