"""The layout of rows: which prompt, image and size each row reads."""

from __future__ import annotations

from atelier.core.geometry import Size
from atelier.engine.packing import RowRef, pack
from atelier.families.family import family_of
from tests.unit.engine.requests import new_request, running

_GUIDED = running(new_request(num_images=2, guidance_rescale=0.4), {"negative": 1.0, "positive": 2.0})
_PLAIN = running(
    new_request(num_chunks=2, guidance_scale=1.0, guidance_rescale=0.4, size=Size(width=64, height=80)),
    {"positive": 3.0},
)


def test_rows_read_the_prompt_of_their_role() -> None:
    packed = pack([_GUIDED, _PLAIN], family_of("sdxl"), width=None)
    [call] = packed.calls
    assert call.refs == (
        RowRef(0, "negative"),
        RowRef(0, "negative"),
        RowRef(0, "positive"),
        RowRef(0, "positive"),
        RowRef(1, "positive"),
    )
    assert call.conditions.pooled_prompt_embeds[:, 0].tolist() == [1, 1, 2, 2, 3]
    assert call.image.tolist() == [0, 1, 0, 1, 2]
    assert packed.positive_row.tolist() == [2, 3, 4]
    assert packed.negative_row.tolist() == [0, 1, 4]


def test_rows_read_the_size_of_their_image_height_first() -> None:
    [call] = pack([_GUIDED, _PLAIN], family_of("sdxl"), width=None).calls
    assert [ids[:2] for ids in call.conditions.add_time_ids.tolist()] == [*[[64, 96]] * 4, [80, 64]]


def test_images_have_the_guidance_of_their_request() -> None:
    packed = pack([_GUIDED, _PLAIN], family_of("sdxl"), width=None)
    assert packed.guidance_scale.flatten().tolist() == [5, 5, 1]
    assert packed.guidance_rescale == {0: 0.4, 1: 0.4}


def test_calls_of_a_fixed_width_end_in_copies_of_the_last_row() -> None:
    first, second = pack([_GUIDED, _PLAIN], family_of("sdxl"), width=3).calls
    assert first.refs == (RowRef(0, "negative"), RowRef(0, "negative"), RowRef(0, "positive"))
    assert second.refs == (RowRef(0, "positive"), RowRef(1, "positive"))
    assert second.image.tolist() == [1, 2, 2]
    assert second.conditions.pooled_prompt_embeds[:, 0].tolist() == [2, 3, 3]


def test_shorter_prompts_are_padded_to_the_longest_of_the_batch() -> None:
    [call] = pack([_GUIDED, _PLAIN], family_of("sdxl"), width=None).calls
    assert call.conditions.num_tokens == 154
    assert [int((bias == 0).sum()) for bias in call.conditions.prompt_bias] == [77, 77, 77, 77, 154]
