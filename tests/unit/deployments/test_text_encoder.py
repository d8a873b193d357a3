"""Batching of texts in a TextEncoder replica, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from ray import serve

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Prompts, Text, TextEmbeds
from atelier.core.sampling import Reproducibility
from atelier.families.family import WeightedAdapter
from atelier.families.sdxl.text import TextEncoders
from deployments.options import TextEncoderOptions
from deployments.text_encoder import TextEncoder

_WAIT_S = 20
_TEXTS = [Text(name, name) for name in ("red", "blue", "green", "white")]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of every call of the text encoders."""
    encode = TextEncoders.encode
    recorded: list[list[str]] = []

    def recording(
        self: TextEncoders, texts: Sequence[Text], adapters: Sequence[Sequence[WeightedAdapter]] = ()
    ) -> list[TextEmbeds]:
        recorded.append([text.prompt for text in texts])
        return encode(self, texts, adapters)

    replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=100))
    monkeypatch.setattr(serve, "get_replica_context", lambda: replica)
    monkeypatch.setattr(TextEncoders, "encode", recording)
    return recorded


async def test_texts_of_several_requests_share_a_call_except_exact_ones(
    small_catalogue: Catalogue, calls: list[list[str]]
) -> None:
    """Both cases are in one test, because Serve keeps one queue of a batched method per process and event loop."""
    encoder = TextEncoder(small_catalogue, TextEncoderOptions())
    requests = [Prompts(positive=_TEXTS[0], negative=_TEXTS[1]), Prompts(positive=_TEXTS[2], negative=_TEXTS[3])]

    async def encode_all(reproducibility: Reproducibility) -> list[list[str]]:
        calls.clear()
        async with asyncio.timeout(_WAIT_S):
            await asyncio.gather(
                *(encoder.encode_texts("small-sdxl", prompts, reproducibility) for prompts in requests)
            )
        return list(calls)

    assert await encode_all("fast") == [["red", "blue", "green", "white"]]
    assert await encode_all("exact") == [["red"], ["blue"], ["green"], ["white"]]
    assert await encode_all("fast") == await encode_all("exact") == [], "cached texts are not encoded again"
