"""Batching: which requests share UNet calls, and how their rows are packed and padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from atelier.core.conditioning import Conditioning
from atelier.core.denoising import RequestId
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.batch import Batch
from atelier.engine.request import BatchKey, RunningRequest
from tests.unit.engine.requests import new_batch, new_request, prompts, running


@pytest.mark.parametrize("size", [Size(width=64, height=96), Size(width=96, height=72), Size(width=104, height=64)])
def test_requests_of_different_sizes_never_share_a_batch(size: Size) -> None:
    assert BatchKey.of(new_request(size=size)) != BatchKey.of(new_request(size=Size(width=96, height=64)))


def test_requests_of_different_models_never_share_a_batch() -> None:
    assert BatchKey.of(new_request(model="another")) != BatchKey.of(new_request())


def test_fast_requests_share_a_batch_whatever_else_differs() -> None:
    other = new_request(
        num_images=3,
        num_chunks=2,
        guidance_scale=1.0,
        guidance_rescale=0.5,
        sampling=Sampling(num_inference_steps=9, sampler="heun", schedule="karras"),
    )
    assert BatchKey.of(other) == BatchKey.of(new_request())


def test_exact_requests_share_a_batch_with_their_own_length_only() -> None:
    keys = [
        BatchKey.of(new_request(num_chunks=num_chunks, reproducibility=reproducibility))
        for num_chunks in (1, 2)
        for reproducibility in ("fast", "exact")
    ]
    assert len(set(keys)) == 3
    assert BatchKey.of(new_request(reproducibility="exact")) == BatchKey.of(
        new_request(reproducibility="exact", num_images=3)
    )


def test_the_longer_prompt_of_an_exact_request_counts() -> None:
    """All rows of a request are padded to its longest prompt."""
    request = new_request(reproducibility="exact")
    longer = new_request(reproducibility="exact", num_chunks=2)
    for positive, negative in ((longer, request), (request, longer)):
        conditioning = Conditioning(positive=positive.conditioning.positive, negative=negative.conditioning.positive)
        assert BatchKey.of(replace(request, conditioning=conditioning)) == BatchKey.of(longer)


def _request(name: str, *, num_chunks: int = 1, num_images: int = 1) -> RunningRequest:
    request = new_request(guidance_scale=1.0, num_chunks=num_chunks, num_images=num_images)
    return running(replace(request, request_id=RequestId(name)))


def _rows(batch: Batch) -> list[float]:
    """The prompt that each row of the batch's one call reads."""
    [call] = batch.packed.calls
    return call.conditions.pooled_prompt_embeds[:, 0].tolist()


def test_rows_are_packed_again_only_when_a_request_joins_or_leaves() -> None:
    first, second = _request("a", num_images=2), _request("b")
    batch = new_batch(first)
    batch.join(first, prompts(first, 1.0))
    packed = batch.packed
    assert batch.packed is packed
    batch.join(second, prompts(second, 2.0))
    assert (batch.num_rows, len(batch.packed.positive_row)) == (3, 3)
    batch.leave(RequestId("a"))
    assert (batch.num_rows, len(batch.packed.positive_row)) == (1, 1)


def test_rows_of_running_requests_lie_side_by_side_without_being_copied() -> None:
    requests = {name: _request(name) for name in "abcde"}
    batch = new_batch(requests["a"])
    for value, name in enumerate("abcd"):
        batch.join(requests[name], prompts(requests[name], float(value)))
    assert _rows(batch) == [0, 1, 2, 3]
    batch.leave(RequestId("b"))
    assert _rows(batch) == [0, 3, 2]
    batch.leave(RequestId("a"))
    batch.join(requests["e"], prompts(requests["e"], 9.0))
    assert _rows(batch) == [9, 3, 2]
    calls = [batch.packed.calls[0]]
    batch.leave(RequestId("c"))
    calls.append(batch.packed.calls[0])
    first, second = (call.conditions.prompt.keys[0].untyped_storage().data_ptr() for call in calls)
    assert first == second


def test_images_of_moved_rows_are_still_theirs() -> None:
    first, second = _request("a"), _request("b", num_images=2)
    batch = new_batch(first)
    batch.join(first, prompts(first, 1.0))
    batch.join(second, prompts(second, 2.0))
    batch.leave(RequestId("a"))
    [call] = batch.packed.calls
    assert sorted(call.image.tolist()) == [0, 1]
    row_of_image = {image: row for row, image in enumerate(call.image.tolist())}
    assert batch.packed.positive_row.tolist() == [row_of_image[0], row_of_image[1]]


def test_a_short_prompt_in_the_slot_of_a_long_one_reads_nothing_of_it() -> None:
    long, short, other = _request("a", num_chunks=2), _request("b"), _request("c", num_chunks=2)
    batch = new_batch(long)
    batch.join(long, prompts(long, float("nan")))
    batch.leave(RequestId("a"))
    batch.join(short, prompts(short, 1.0))
    batch.join(other, prompts(other, 2.0))
    [call] = batch.packed.calls
    assert call.conditions.prompt.keys[0][0, :, 0].tolist() == [1.0] * 77 + [0.0] * 77
    assert call.conditions.prompt_bias[0, 0].tolist() == [0.0] * 77 + [-10_000.0] * 77


def test_rows_are_as_long_as_the_longest_prompt_that_is_left() -> None:
    long, short = _request("a", num_chunks=3), _request("b")
    batch = new_batch(long)
    batch.join(long, prompts(long, 1.0))
    batch.join(short, prompts(short, 2.0))
    assert batch.packed.calls[0].conditions.num_tokens == 231
    batch.leave(RequestId("a"))
    assert batch.packed.calls[0].conditions.num_tokens == 77


def test_a_request_that_fails_to_join_leaves_the_others_as_they_were() -> None:
    first, wide = _request("a"), _request("b")
    batch = new_batch(first)
    batch.join(first, prompts(first, 1.0))
    odd = {role: replace(prompt, pooled_prompt_embeds=torch.zeros(5)) for role, prompt in prompts(wide, 2.0).items()}
    with pytest.raises(RuntimeError):
        batch.join(wide, odd)
    assert _rows(batch) == [1.0]
    assert batch.requests == [first]


@pytest.mark.parametrize(("num_images", "num_padding_rows"), [(1, 2), (2, 0), (3, 2)])
def test_exact_batches_are_padded_to_their_width(num_images: int, num_padding_rows: int) -> None:
    for reproducibility, expected in (("exact", num_padding_rows), ("fast", 0)):
        request = running(new_request(num_images=num_images, reproducibility=reproducibility))
        batch = new_batch(request)
        batch.join(request, prompts(request, 1.0, 2.0))
        assert batch.num_padding_rows == expected
        assert sum(len(call.image) for call in batch.packed.calls) == batch.num_rows + expected
