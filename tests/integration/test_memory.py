"""The Autoencoder keeps the memory that its models free, instead of taking it back page by page for every call."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.integration.replicas import replicas_of

_BODY = {"prompt": "a red circle", "n": 8, "num_inference_steps": 2, "size": "128x128"}


def _num_faults() -> int:
    """Minor page faults of the Autoencoder so far: the tenth field of /proc/PID/stat, see proc(5)."""
    [replica] = replicas_of("Autoencoder")
    after_name = Path(f"/proc/{replica.pid}/stat").read_text().rpartition(")")[2].split()
    return int(after_name[7])


@pytest.mark.slow
def test_equal_requests_need_no_further_pages(address: str) -> None:
    with httpx2.Client(base_url=address, timeout=120) as client:
        for _ in range(3):
            client.post("/v1/images/generations", json=_BODY).raise_for_status()
        before = _num_faults()
        for _ in range(3):
            client.post("/v1/images/generations", json=_BODY).raise_for_status()
    assert _num_faults() - before < 3_000
