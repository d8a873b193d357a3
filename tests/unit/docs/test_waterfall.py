"""The picture of a trace, from files of spans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.pictures.waterfall import draw, read_spans, trace_of

_PAPER, _STEPS = (255, 255, 255), (0x4F, 0x8A, 0x5B)


def _exported(name: str, parent: str | None, start: str, end: str, *, request_id: str) -> dict[str, Any]:
    return {
        "name": name,
        "context": {"trace_id": f"trace of {request_id}", "span_id": name},
        "parent_id": parent,
        "start_time": f"2026-01-01T00:00:{start}Z",
        "end_time": f"2026-01-01T00:00:{end}Z",
        "attributes": {"request_id": request_id} if parent is None else {},
    }


def _write(file: Path, *spans: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(span, indent=4) + "\n" for span in spans))


def test_a_request_is_drawn_from_all_files_with_bars_on_one_axis(tmp_path: Path) -> None:
    steps = _exported("steps 1-10", "call", "01.000000", "02.000000", request_id="one")
    _write(tmp_path / "denoiser", steps)
    root = _exported("call", None, "00.000000", "04.000000", request_id="one")
    _write(tmp_path / "router", root, _exported("call", None, "09.000000", "09.500000", request_id="another"))
    spans = trace_of("one", read_spans(tmp_path))
    assert {(span.name, span.end_ms - span.start_ms) for span in spans} == {("call", 4000), ("steps 1-10", 1000)}
    picture = draw(spans)
    # The axis is 620 pixels wide and begins at 440; the steps are in the second row and the second of four seconds.
    y = 16 + 2 * 24 + 12
    colours = [picture.getpixel((round(440 + seconds * 155), y)) for seconds in (0.7, 1.7, 3.7)]
    assert colours == [_PAPER, _STEPS, _PAPER]
