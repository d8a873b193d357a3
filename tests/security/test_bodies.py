"""Hostile requests: refused at little cost in memory, without any model."""

from __future__ import annotations

import tracemalloc

import httpx2
import pytest

from tests.security.attack_requests import ATTACKS, Attack
from tests.stages import RecordingStages

_MAX_BYTES = 300_000_000


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS if attack.at_once == 1], ids=lambda attack: attack.name
)
async def test_a_hostile_request_is_answered_cheaply(
    http: httpx2.AsyncClient, stages: RecordingStages, attack: Attack
) -> None:
    body = attack.body()
    tracemalloc.start()
    try:
        answer = await http.post(attack.path, content=body, headers=attack.headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == attack.status, answer.text
    assert len(answer.content) < 3000
    assert peak < _MAX_BYTES
    assert stages.calls == []
    if attack.status != 200:
        assert answer.json()["error"]["message"]
