"""Hostile bodies: refused at little cost in memory, without any model."""

from __future__ import annotations

import tracemalloc

import httpx2
import pytest

from tests.stages import RecordingStages

_PATH = "/v1/images/generations"
_MAX_BYTES = 300_000_000
_NAMES = b", ".join(b'"%d": 1' % index for index in range(2_000_000))


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "a", "controls": [' + b"[]," * 9_600_000 + b"[]]}",
        b'{"prompt": "a", "controls": [' + b"{}," * 60_000 + b"{}]}",
        b'{"prompt": "a", "hires": {' + _NAMES + b"}}",
        b'{"prompt": "a", ' + _NAMES + b"}",
        b'{"prompt": "a", "n": ' + b"[" * 10_000_000 + b"}",
        b'{"prompt": "a", "n": ' + b"9" * 20_000_000 + b"}",
        b'{"prompt": "' + b"a" * 25_000_000 + b'"}',
        b'{"prompt": "a", "' + b"b" * 25_000_000 + b'": 1}',
        b'{"prompt": "a", "init_image": "' + b"A" * 25_000_000 + b'"}',
    ],
    ids=["lists", "objects", "names in hires", "names", "depth", "digits", "prompt", "name", "no image"],
)
async def test_a_hostile_body_is_refused_cheaply(
    http: httpx2.AsyncClient, stages: RecordingStages, body: bytes
) -> None:
    tracemalloc.start()
    try:
        answer = await http.post(_PATH, content=body, headers={"content-type": "application/json"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 3000
    assert peak < _MAX_BYTES
    assert stages.calls == []
