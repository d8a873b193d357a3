"""The layout of rows: which prompt, image and size each row reads."""

from __future__ import annotations

import pytest

from atelier.core.geometry import Size
from atelier.engine.batch import Batch
from atelier.engine.packing import RowRef
from tests.unit.engine.requests import new_batch, new_request, prompts, running

_GUIDED = running(new_request(num_images=2, guidance_rescale=0.4))
_PLAIN = running(new_request(num_chunks=2, guidance_scale=1.0, guidance_rescale=0.4))


def _batch(*, num_calls: int = 1) -> Batch:
    """Two guided images with the prompts 1 and 2, and one image with the prompt 3, which has two chunks."""
    batch = new_batch(_GUIDED, num_calls=num_calls)
    batch.join(_GUIDED, prompts(_GUIDED, 1.0, 2.0))
    batch.join(_PLAIN, prompts(_PLAIN, 3.0))
    return batch


def test_rows_read_the_prompt_of_their_role() -> None:
    packed = _batch().packed
    [call] = packed.calls
    assert call.refs == (
        RowRef(0, "negative"),
        RowRef(0, "negative"),
        RowRef(0, "positive"),
        RowRef(0, "positive"),
        RowRef(1, "positive"),
    )
    assert call.conditions.pooled_prompt_embeds[:, 0].tolist() == [1, 1, 2, 2, 3]
    assert call.conditions.prompt.keys[0][:, 76, 0].tolist() == [1, 1, 2, 2, 3]
    assert call.conditions.prompt.values[0][:, 76, 0].tolist() == [1, 1, 2, 2, 3]
    assert call.image.tolist() == [0, 1, 0, 1, 2]
    assert packed.positive_row.tolist() == [2, 3, 4]
    assert packed.negative_row.tolist() == [0, 1, 4]


def test_rows_read_the_size_of_their_image_height_first() -> None:
    request = running(new_request(size=Size(width=64, height=80), guidance_scale=1.0))
    batch = new_batch(request)
    batch.join(request, prompts(request, 1.0))
    [call] = batch.packed.calls
    assert call.conditions.add_time_ids.tolist() == [[80, 64, 0, 0, 80, 64]]


def test_images_have_the_guidance_of_their_request() -> None:
    packed = _batch().packed
    assert packed.guidance_scale.flatten().tolist() == [5, 5, 1]
    assert packed.guidance_rescale == {0: 0.4, 1: 0.4}


def test_rows_are_split_into_calls() -> None:
    first, second = _batch(num_calls=2).packed.calls
    assert first.refs == (RowRef(0, "negative"), RowRef(0, "negative"))
    assert second.refs == (RowRef(0, "positive"), RowRef(0, "positive"), RowRef(1, "positive"))
    assert second.image.tolist() == [0, 1, 2]
    assert second.conditions.pooled_prompt_embeds[:, 0].tolist() == [2, 2, 3]


def test_calls_of_a_fixed_width_end_in_copies_of_the_last_row() -> None:
    request = running(new_request(num_images=3, guidance_scale=1.0, reproducibility="exact"))
    batch = new_batch(request, exact_width=2)
    batch.join(request, prompts(request, 7.0))
    first, second = batch.packed.calls
    assert (first.image.tolist(), second.image.tolist()) == ([0, 1], [2, 2])
    assert second.refs == (RowRef(0, "positive"),)
    assert second.conditions.pooled_prompt_embeds[:, 0].tolist() == [7, 7]


def test_shorter_prompts_are_padded_to_the_longest_of_the_batch() -> None:
    [call] = _batch().packed.calls
    assert call.conditions.num_tokens == 154
    assert [int((bias == 0).sum()) for bias in call.conditions.prompt_bias] == [77, 77, 77, 77, 154]


@pytest.mark.parametrize("alone", [0, 1])
def test_a_request_packed_alone_has_its_own_rows_only(alone: int) -> None:
    request, values = [(_GUIDED, [1, 1, 2, 2]), (_PLAIN, [3])][alone]
    [call] = _batch().pack_alone(request).calls
    assert call.conditions.pooled_prompt_embeds[:, 0].tolist() == values
    assert {ref.request for ref in call.refs} == {0}
