from __future__ import annotations

import numpy as np
import pytest

from atelier.core.conditioning import Conditioning, TextEmbeds


def _embeds(value: float, *, num_rows: int = 77, num_tokens: int = 5) -> TextEmbeds:
    return TextEmbeds(
        prompt_embeds=np.full((num_rows, 6), value, dtype=np.float32),
        pooled_prompt_embeds=np.full(4, value, dtype=np.float32),
        num_tokens=num_tokens,
    )


@pytest.mark.parametrize(("num_rows", "num_chunks"), [(77, 1), (154, 2), (231, 3)])
def test_77_tokens_are_a_chunk(num_rows: int, num_chunks: int) -> None:
    assert _embeds(1, num_rows=num_rows).num_chunks == num_chunks


@pytest.mark.parametrize("num_rows", [0, 1, 76, 78, 153])
def test_embeddings_of_incomplete_chunks_are_rejected(num_rows: int) -> None:
    with pytest.raises(ValueError, match="not a multiple of 77"):
        _embeds(1, num_rows=num_rows)


def test_zeros_have_the_same_shapes_and_no_tokens() -> None:
    zeros = _embeds(3, num_rows=154).zeros()
    assert zeros.prompt_embeds.shape == (154, 6)
    assert zeros.pooled_prompt_embeds.shape == (4,)
    assert not zeros.prompt_embeds.any()
    assert not zeros.pooled_prompt_embeds.any()
    assert zeros.num_tokens == 0


def test_without_guidance_only_the_positive_prompt_is_read() -> None:
    positive = _embeds(1)
    assert Conditioning(positive=positive, negative=_embeds(2)).by_role(["positive"]) == {"positive": positive}


def test_guidance_reads_both_prompts_by_their_roles() -> None:
    positive, negative = _embeds(1), _embeds(2)
    read = Conditioning(positive=positive, negative=negative).by_role(["negative", "positive"])
    assert read["positive"] is positive
    assert read["negative"] is negative
    assert len(read) == 2


def test_guidance_without_a_negative_prompt_runs_against_zeros() -> None:
    read = Conditioning(positive=_embeds(1), negative=None).by_role(["negative", "image", "positive"])
    assert read["image"] is read["negative"]
    assert not read["negative"].prompt_embeds.any()
    assert not read["negative"].pooled_prompt_embeds.any()
    assert read["positive"].prompt_embeds.all()
