"""Batching: which requests share UNet calls, and how their rows are packed and padded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atelier.core.conditioning import Conditioning
from atelier.core.geometry import Size
from atelier.core.sampling import Sampling
from atelier.engine.batch import Batch
from atelier.engine.request import BatchKey
from atelier.families.family import family_of
from tests.unit.engine.requests import new_request, running


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


def test_rows_are_packed_again_when_a_request_joins_or_leaves() -> None:
    first, second = new_request(num_images=2), new_request(guidance_scale=1.0)
    batch = Batch(BatchKey.of(first), family_of("sdxl"), exact_width=4)
    batch.join(running(first, {"negative": 1.0, "positive": 2.0}))
    packed = batch.packed
    assert batch.packed is packed
    assert (batch.num_rows, len(packed.positive_row)) == (4, 2)
    batch.join(running(second, {"positive": 3.0}))
    assert (batch.num_rows, len(batch.packed.positive_row)) == (5, 3)
    assert batch.leave(first.request_id)
    assert not batch.leave(first.request_id)


@pytest.mark.parametrize(("num_images", "num_padding_rows"), [(1, 2), (2, 0), (3, 2)])
def test_exact_batches_are_padded_to_their_width(num_images: int, num_padding_rows: int) -> None:
    for reproducibility, expected in (("exact", num_padding_rows), ("fast", 0)):
        request = new_request(num_images=num_images, reproducibility=reproducibility)
        batch = Batch(BatchKey.of(request), family_of("sdxl"), exact_width=4)
        batch.join(running(request, {"negative": 1.0, "positive": 2.0}))
        assert batch.num_padding_rows == expected
        assert sum(len(call.image) for call in batch.packed.calls) == batch.num_rows + expected
