from __future__ import annotations

from atelier.api.schemas import ControlMap, control_map
from atelier.pipeline.results import ControlMap as DrawnMap


def test_a_map_is_answered_as_base64() -> None:
    assert control_map(DrawnMap(kind="depth", data=b"A\xff")) == ControlMap(kind="depth", b64_json="Qf8=")
