from __future__ import annotations

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Text
from atelier.core.errors import InvalidParameter
from atelier.families.sdxl.text import TextEncoders
from tests.small_models import CPU


@pytest.fixture(scope="module")
def encoders(catalogue: Catalogue) -> TextEncoders:
    return TextEncoders(catalogue.model(None), CPU)


def test_shapes(encoders: TextEncoders) -> None:
    [embeds] = encoders.encode([Text("a red circle", "a red circle")])
    assert embeds.prompt_embeds.shape == (77, 128)
    assert embeds.pooled_prompt_embeds.shape == (64,)


def test_a_text_does_not_depend_on_its_neighbours(encoders: TextEncoders) -> None:
    texts = [Text("a red circle", "a red circle"), Text("日本 🎨", "日本 🎨"), Text("", "")]
    for text, together in zip(texts, encoders.encode(texts), strict=True):
        [alone] = encoders.encode([text])
        np.testing.assert_allclose(together.prompt_embeds, alone.prompt_embeds, atol=1e-5)
        np.testing.assert_allclose(together.pooled_prompt_embeds, alone.pooled_prompt_embeds, atol=1e-5)


def test_each_encoder_reads_its_own_prompt(encoders: TextEncoders) -> None:
    red, mixed = encoders.encode([Text("red", "red"), Text("red", "blue")])
    assert np.array_equal(red.prompt_embeds[:, :64], mixed.prompt_embeds[:, :64])
    assert not np.allclose(red.prompt_embeds[:, 64:], mixed.prompt_embeds[:, 64:])
    assert not np.allclose(red.pooled_prompt_embeds, mixed.pooled_prompt_embeds)


def test_a_long_text_is_encoded_chunk_by_chunk(encoders: TextEncoders) -> None:
    long, first, second = encoders.encode(
        [Text("red " * 75 + "blue circle", "red"), Text("red " * 75, "red"), Text("blue circle", "")]
    )
    assert long.prompt_embeds.shape == (154, 128)
    assert first.prompt_embeds.shape == (77, 128)
    np.testing.assert_allclose(long.prompt_embeds[:77], first.prompt_embeds, atol=1e-5)
    np.testing.assert_allclose(long.prompt_embeds[77:], second.prompt_embeds, atol=1e-5)
    np.testing.assert_allclose(long.pooled_prompt_embeds, first.pooled_prompt_embeds, atol=1e-5)


def test_600_tokens_are_read_and_601_refused(encoders: TextEncoders) -> None:
    encoders.check_length(Text("red " * 600, "red"))
    with pytest.raises(InvalidParameter, match="601 tokens"):
        encoders.check_length(Text("red", "red " * 601))
