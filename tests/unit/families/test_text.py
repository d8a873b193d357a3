from __future__ import annotations

import numpy as np
import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.core.conditioning import Text
from atelier.core.errors import InvalidParameter
from atelier.families.sdxl.text import TextEncoders
from tests.small_models import CPU, POOLED_WIDTH, TEXT_WIDTHS

_WIDTH = sum(TEXT_WIDTHS)


@pytest.fixture(scope="module")
def encoders(small_catalogue: Catalogue) -> TextEncoders:
    return TextEncoders(small_catalogue.model(None), CPU)


def test_embeddings_have_the_widths_of_both_encoders(encoders: TextEncoders) -> None:
    [embeds] = encoders.encode([Text("a red circle", "a red circle")])
    assert embeds.prompt_embeds.shape == (77, _WIDTH)
    assert embeds.pooled_prompt_embeds.shape == (POOLED_WIDTH,)


def test_embeddings_do_not_depend_on_other_texts_of_the_batch(encoders: TextEncoders) -> None:
    texts = [Text("a red circle", "a red circle"), Text("日本 🎨", "日本 🎨"), Text("", "")]
    for text, together in zip(texts, encoders.encode(texts), strict=True):
        [alone] = encoders.encode([text])
        np.testing.assert_allclose(together.prompt_embeds, alone.prompt_embeds, atol=1e-5)
        np.testing.assert_allclose(together.pooled_prompt_embeds, alone.pooled_prompt_embeds, atol=1e-5)


def test_each_encoder_reads_its_own_prompt(encoders: TextEncoders) -> None:
    red, mixed = encoders.encode([Text("red", "red"), Text("red", "blue")])
    assert np.array_equal(red.prompt_embeds[:, : TEXT_WIDTHS[0]], mixed.prompt_embeds[:, : TEXT_WIDTHS[0]])
    assert not np.allclose(red.prompt_embeds[:, TEXT_WIDTHS[0] :], mixed.prompt_embeds[:, TEXT_WIDTHS[0] :])
    assert not np.allclose(red.pooled_prompt_embeds, mixed.pooled_prompt_embeds)


def test_long_text_is_encoded_chunk_by_chunk(encoders: TextEncoders) -> None:
    long, first, second = encoders.encode(
        [Text("red " * 75 + "blue circle", "red"), Text("red " * 75, "red"), Text("blue circle", "")]
    )
    assert long.prompt_embeds.shape == (154, _WIDTH)
    assert first.prompt_embeds.shape == (77, _WIDTH)
    np.testing.assert_allclose(long.prompt_embeds[:77], first.prompt_embeds, atol=1e-5)
    np.testing.assert_allclose(long.prompt_embeds[77:], second.prompt_embeds, atol=1e-5)
    np.testing.assert_allclose(long.pooled_prompt_embeds, first.pooled_prompt_embeds, atol=1e-5)


def test_600_tokens_are_accepted_and_601_rejected(encoders: TextEncoders) -> None:
    encoders.check_length(Text("red " * 600, "red"))
    with pytest.raises(InvalidParameter, match="601 tokens"):
        encoders.check_length(Text("red", "red " * 601))
