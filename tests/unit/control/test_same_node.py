from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.control.batching import ResidualBatcher
from atelier.control.controlnets import ControlNets
from atelier.control.same_node import SameNode, SameNodeServer
from atelier.control.transports import InProcess, TransportFailed
from atelier.core.errors import GenerationFailed
from atelier.models.host import ModelHost
from atelier.models.thread import ModelThread
from tests.small_models import CPU
from tests.unit.control.calls import are_equal, new_call


@pytest.fixture(scope="module")
def server(small_catalogue: Catalogue) -> SameNodeServer:
    thread = ModelThread("controlnet", num_threads=torch.get_num_threads())
    controlnets = thread.run(lambda: ControlNets(small_catalogue, CPU, ModelHost(CPU)))
    return SameNodeServer(ResidualBatcher(controlnets, thread), CPU)


@pytest.fixture
def same_node(server: SameNodeServer) -> Iterator[SameNode]:
    transport = SameNode(lambda: server.socket_file, CPU, deadline_s=20.0)
    yield transport
    transport.close()


def test_shared_memory_carries_the_bits_of_in_process_residuals(
    controlnets: ControlNets, same_node: SameNode
) -> None:
    """One connection carries small and large calls, several at once, with new and with known contexts."""
    in_process = InProcess(controlnets)
    first, contexts = new_call(seed=1)
    second, others = new_call(seed=2, num_rows=7, controlnet="small-depth")
    together = {**contexts, **others}
    for calls in ([first], [first], [second, first], [second]):
        expected = in_process.start(calls, together)()
        for ours, theirs in zip(same_node.start(calls, together)(), expected, strict=True):
            assert are_equal(ours, theirs)
            assert ours.hidden_states.stride() == theirs.hidden_states.stride()


def test_a_response_that_was_not_awaited_is_not_taken_for_the_next(
    controlnets: ControlNets, same_node: SameNode
) -> None:
    first, contexts = new_call(seed=14)
    second, others = new_call(seed=15)
    same_node.start([first], contexts)
    [ours] = same_node.start([second], others)()
    [expected] = InProcess(controlnets).start([second], others)()
    assert are_equal(ours, expected)


def test_a_replicas_failure_reaches_the_client_and_later_calls_are_served(same_node: SameNode) -> None:
    call, contexts = new_call(seed=10)
    broken = replace(call, model_input=call.model_input[:, :3])
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
