"""Every transport gives the very residuals, and the next stands in where one fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.control.batching import ResidualBatcher
from atelier.control.calls import Contexts, ControlCall, UnknownContexts
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.control.same_node import SameNode, SameNodeServer
from atelier.control.transports import InOrder, InProcess, TransportFailed, Wait
from atelier.core.control import TransportName
from atelier.core.errors import GenerationFailed, ReplicaLost
from atelier.models.thread import ModelThread
from tests.local_stages import CPU
from tests.unit.control.calls import new_call


@pytest.fixture(scope="module")
def controlnets(catalogue: Catalogue) -> ControlNets:
    return ControlNets(catalogue.controlnets, CPU)


@pytest.fixture(scope="module")
def batcher(catalogue: Catalogue) -> ResidualBatcher:
    thread = ModelThread("controlnet", num_threads=torch.get_num_threads())
    return ResidualBatcher(thread.run(lambda: ControlNets(catalogue.controlnets, CPU)), thread)


@pytest.fixture(scope="module")
def server(batcher: ResidualBatcher) -> SameNodeServer:
    return SameNodeServer(batcher, CPU)


@pytest.fixture
def same_node(server: SameNodeServer) -> Iterator[SameNode]:
    transport = SameNode(lambda: server.socket_file, CPU, deadline_s=20.0)
    yield transport
    transport.close()


def _are_equal(ours: Residuals, theirs: Residuals) -> bool:
    return ours.weights_hash == theirs.weights_hash != "" and all(
        torch.equal(a, b)
        for a, b in zip([*ours.skips, ours.hidden_states], [*theirs.skips, theirs.hidden_states], strict=True)
    )


def test_shared_memory_carries_the_very_bits(controlnets: ControlNets, same_node: SameNode) -> None:
    """Over one connection: small calls and large ones, several at once, known contexts and new ones."""
    in_process = InProcess(controlnets)
    first, contexts = new_call(seed=1)
    second, others = new_call(seed=2, num_rows=7, controlnet="tiny-depth")
    together = {**contexts, **others}
    for calls in ([first], [first], [second, first], [second]):
        expected = in_process.start(calls, together)()
        for ours, theirs in zip(same_node.start(calls, together)(), expected, strict=True):
            assert _are_equal(ours, theirs)


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(controlnets: ControlNets, same_node: SameNode) -> None:
    first, contexts = new_call(seed=14)
    second, others = new_call(seed=15)
    same_node.start([first], contexts)
    [ours] = same_node.start([second], others)()
    [expected] = InProcess(controlnets).start([second], others)()
    assert _are_equal(ours, expected)


def test_a_longer_prompt_beside_a_row_leaves_its_bits_alone(controlnets: ControlNets) -> None:
    """Both are filled up to what the UNet's call has, whoever shares the pass."""
    short, contexts = new_call(seed=16, num_rows=1, width=2, num_tokens=154)
    long, others = new_call(seed=17, num_rows=1, width=2, num_tokens=154, num_chunks=2)
    in_process = InProcess(controlnets)
    [alone] = in_process.start([short], contexts)()
    together = ControlCall(
        controlnet=short.controlnet,
        rows=(*short.rows, *long.rows),
        model_input=torch.cat([short.model_input, long.model_input]),
        timesteps=torch.cat([short.timesteps, long.timesteps]),
        num_tokens=154,
        width=2,
    )
    [both] = in_process.start([together], {**contexts, **others})()
    assert _are_equal(alone, both.select(slice(1)))


def test_a_fixed_width_makes_the_bits_of_a_row_its_own(controlnets: ControlNets) -> None:
    in_process = InProcess(controlnets)
    call, contexts = new_call(seed=3, num_rows=5, width=4)
    [whole] = in_process.start([call], contexts)()
    alone = ControlCall(
        controlnet=call.controlnet,
        rows=call.rows[2:3],
        model_input=call.model_input[2:3],
        timesteps=call.timesteps[2:3],
        num_tokens=call.num_tokens,
        width=4,
    )
    [one] = in_process.start([alone], contexts)()
    assert _are_equal(one, whole.select(slice(2, 3)))


def test_a_forgotten_context_is_told_again(controlnets: ControlNets) -> None:
    call, contexts = new_call(seed=4)
    in_process = InProcess(controlnets)
    [before] = in_process.start([call], contexts)()
    other, others = new_call(seed=5)
    for _ in range(20):
        in_process.start([other], others)()
    assert controlnets.unknown(call.rows) == tuple(contexts)
    [after] = in_process.start([call], contexts)()
    assert _are_equal(before, after)


def test_calls_that_wait_together_are_answered_as_one(catalogue: Catalogue) -> None:
    passes = []

    class Counting(ControlNets):
        def residuals(self, call: ControlCall) -> Residuals:
            passes.append(len(call.rows))
            return super().residuals(call)

    thread = ModelThread("controlnet", num_threads=1)
    batcher = ResidualBatcher(Counting(catalogue.controlnets, CPU), thread)
    (first, contexts), (second, others), (exact, more) = new_call(seed=6), new_call(seed=7), new_call(seed=8, width=2)
    gate = threading.Event()
    thread.submit(gate.wait)
    answers = [
        batcher.submit(first, list(contexts.values())),
        batcher.submit(second, list(others.values())),
        batcher.submit(exact, list(more.values())),
        batcher.submit(new_call(seed=9)[0], []),
    ]
    gate.set()
    results = [answer.result(20) for answer in answers]
    assert passes == [4, 2]
    assert isinstance(results[3], UnknownContexts)
    alone = ControlNets(catalogue.controlnets, CPU)
    for call, known, result in ((first, contexts, results[0]), (second, others, results[1])):
        [expected] = InProcess(alone).start([call], known)()
        assert isinstance(result, Residuals)
        torch.testing.assert_close(result.hidden_states, expected.hidden_states, rtol=1e-4, atol=1e-4)


def test_a_replicas_own_failure_reaches_the_client_and_the_replica_goes_on(same_node: SameNode) -> None:
    call, contexts = new_call(seed=10)
    broken = ControlCall(
        controlnet=call.controlnet,
        rows=call.rows,
        model_input=call.model_input[:, :3],
        timesteps=call.timesteps,
        num_tokens=call.num_tokens,
        width=None,
    )
    with pytest.raises(GenerationFailed, match="ControlNet"):
        same_node.start([broken], contexts)()
    assert len(same_node.start([call], contexts)()) == 1


def test_a_silent_replica_fails_within_the_deadline(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    call, contexts = new_call(seed=11)
    transport = SameNode(lambda: tmp_path / "socket", CPU, deadline_s=0.1)
    wait = transport.start([call], contexts)
    with pytest.raises(TransportFailed):
        wait()
    listener.close()
    with pytest.raises(TransportFailed):
        transport.start([call], contexts)


class _Broken:
    """Fails when it is asked, or only when it should answer."""

    def __init__(self, *, late: bool) -> None:
        self.num_asked = 0
        self._late = late

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:  # noqa: ARG002 the Protocol's
        self.num_asked += 1
        if self._late:
            return self._fail
        self._fail()
        raise AssertionError

    def _fail(self) -> list[Residuals]:
        raise TransportFailed("gone")


@pytest.mark.parametrize("late", [False, True])
def test_the_next_transport_stands_in_and_the_failed_one_rests(controlnets: ControlNets, late: bool) -> None:
    broken, failures = _Broken(late=late), list[TransportName]()
    in_order = InOrder({"same_node": broken, "in_process": InProcess(controlnets)}, on_failure=failures.append)
    call, contexts = new_call(seed=12)
    for _ in range(3):
        [ours] = in_order.start([call], contexts)()
        [expected] = InProcess(controlnets).start([call], contexts)()
        assert _are_equal(ours, expected)
    assert (broken.num_asked, failures) == (1, ["same_node"])


def test_no_transport_left_is_a_lost_replica() -> None:
    call, contexts = new_call(seed=13)
    in_order = InOrder({"same_node": _Broken(late=True), "handle": _Broken(late=False)})
    for _ in range(2):
        with pytest.raises(ReplicaLost):
            in_order.start([call], contexts)()
