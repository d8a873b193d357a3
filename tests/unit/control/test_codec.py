from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from atelier.control.codec import decode, encode
from atelier.control.messages import ResidualsRequest
from atelier.control.residuals import Residuals
from tests.small_models import CPU
from tests.unit.control.calls import new_call

_DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64]


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", _DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_decoded_tensor_has_the_bits_and_the_memory_layout_of_the_original(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    tensor = (100 * torch.randn(2, 5, 3, 4)).to(dtype).contiguous(memory_format=memory_format)
    decoded = decode(encode(tensor), CPU)
    assert decoded.dtype == dtype
    assert decoded.stride() == tensor.stride()
    assert _bits(decoded) == _bits(tensor)


def test_special_floats_keep_their_bits_in_bfloat16() -> None:
    bits = torch.tensor([0x7FC1, -1, 0, -32768, 0x7F80, 1], dtype=torch.int16)
    assert torch.equal(decode(encode(bits.view(torch.bfloat16)), CPU).view(torch.int16), bits)


def test_a_slice_of_rows_is_sent_without_the_other_rows() -> None:
    tensor = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    encoded = encode(tensor[2:4])
    assert [buffer.raw().nbytes for buffer in encoded.buffers] == [2 * 4 * 9 * 4]
    assert torch.equal(decode(encoded, CPU), tensor[2:4])


def test_a_tensor_that_is_not_dense_is_sent_as_contiguous() -> None:
    tensor = torch.randn(6, 5).t()
    decoded = decode(encode(tensor), CPU)
    assert decoded.is_contiguous()
    assert torch.equal(decoded, tensor)


def test_neither_side_copies_the_memory_of_channels_last_residuals() -> None:
    tensor = torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    encoded = encode(Residuals((tensor,), tensor))
    assert decode(encoded, CPU).hidden_states.data_ptr() == tensor.data_ptr()
    assert len(encoded.structure) < 1000


def test_read_only_memory_is_copied() -> None:
    """Serve hands out arrays of its object store, which models must not write into."""
    encoded = encode(torch.zeros(3))
    memory = encoded.buffers[0].raw().tobytes()
    decoded = decode(replace(encoded, buffers=(pickle.PickleBuffer(memory),)), CPU)
    decoded += 1
    assert memory == bytes(12)


def test_a_request_survives_a_pickle_whole() -> None:
    call, contexts = new_call(seed=1)
    encoded = pickle.loads(pickle.dumps(encode(ResidualsRequest(call, tuple(contexts.values()))), protocol=5))
    request = decode(encoded, CPU)
    assert request.call.rows == call.rows
    assert (request.call.controlnet, request.call.num_tokens, request.call.width) == ("small-canny", 77, None)
    assert torch.equal(request.call.model_input, call.model_input)
    assert torch.equal(request.call.timesteps, call.timesteps)
    [context], [sent] = request.contexts, contexts.values()
    assert context.context_id == sent.context_id
    assert np.array_equal(context.control_image, sent.control_image)
    assert list(context.embeds) == list(sent.embeds)
    for role, embeds in sent.embeds.items():
        assert np.array_equal(context.embeds[role].prompt_embeds, embeds.prompt_embeds)
        assert np.array_equal(context.embeds[role].pooled_prompt_embeds, embeds.pooled_prompt_embeds)
