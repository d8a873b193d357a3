from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.control.batching import ResidualBatcher
from atelier.control.calls import ControlCall, UnknownContexts
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.control.transports import InProcess
from atelier.models.host import ModelHost
from atelier.models.thread import ModelThread
from tests.small_models import CPU
from tests.unit.control.calls import new_call

_WAIT_S = 20


class _Recording(ControlNets):
    """ControlNets that record the number of rows of every call."""

    num_rows: list[int]

    def ready(self, call: ControlCall) -> Callable[[], Residuals]:
        self.num_rows.append(len(call.rows))
        return super().ready(call)


@pytest.fixture
def recording(small_catalogue: Catalogue) -> tuple[ResidualBatcher, _Recording, Callable[[], None]]:
    """A batcher whose thread is blocked until the returned function is called, and its ControlNets."""
    thread = ModelThread("controlnet", num_threads=1)
    controlnets = _Recording(small_catalogue, CPU, ModelHost(CPU))
    controlnets.num_rows = []
    gate = threading.Event()
    thread.submit(lambda: gate.wait(_WAIT_S))
    return ResidualBatcher(controlnets, thread), controlnets, gate.set


def test_waiting_calls_of_one_controlnet_and_size_share_a_pass(
    recording: tuple[ResidualBatcher, _Recording, Callable[[], None]], controlnets: ControlNets
) -> None:
    batcher, recorded, go_on = recording
    (first, contexts), (second, others), (exact, more) = new_call(seed=6), new_call(seed=7), new_call(seed=8, width=2)
    answers = [
        batcher.submit(first, list(contexts.values())),
        batcher.submit(second, list(others.values())),
        batcher.submit(exact, list(more.values())),
        batcher.submit(new_call(seed=9)[0], []),
    ]
    go_on()
    results = [answer.result(_WAIT_S) for answer in answers]
    assert recorded.num_rows == [4, 2]
    assert isinstance(results[3], UnknownContexts)
    for call, known, result in ((first, contexts, results[0]), (second, others, results[1])):
        [expected] = InProcess(controlnets).start([call], known)()
        assert isinstance(result, Residuals)
        torch.testing.assert_close(result.hidden_states, expected.hidden_states, rtol=1e-4, atol=1e-4)


def test_a_call_with_shorter_prompts_does_not_cut_those_of_the_calls_it_is_joined_with(
    recording: tuple[ResidualBatcher, _Recording, Callable[[], None]], controlnets: ControlNets
) -> None:
    batcher, recorded, go_on = recording
    short, contexts = new_call(seed=6)
    long, others = new_call(seed=7, num_tokens=154, num_chunks=2)
    batcher.submit(short, list(contexts.values()))
    answer = batcher.submit(long, list(others.values()))
    go_on()
    result = answer.result(_WAIT_S)
    [expected] = InProcess(controlnets).start([long], others)()
    assert recorded.num_rows == [4]
    assert isinstance(result, Residuals)
    torch.testing.assert_close(result.hidden_states, expected.hidden_states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [{"controlnet": "small-depth"}, {"latent_width": 8}], ids=["controlnet", "size"])
def test_calls_of_different_controlnets_or_sizes_do_not_share_a_pass(
    recording: tuple[ResidualBatcher, _Recording, Callable[[], None]], other: dict[str, Any]
) -> None:
    batcher, recorded, go_on = recording
    calls = [new_call(seed=6), new_call(seed=7, **other)]
    answers = [batcher.submit(call, list(contexts.values())) for call, contexts in calls]
    go_on()
    assert all(isinstance(answer.result(_WAIT_S), Residuals) for answer in answers)
    assert recorded.num_rows == [2, 2]
