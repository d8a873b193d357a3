"""The order of transports: when one fails, the next one takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from atelier.control.calls import Contexts, ControlCall
from atelier.control.controlnets import ControlNets
from atelier.control.residuals import Residuals
from atelier.control.transports import InOrder, InProcess, TransportFailed, Wait
from atelier.core.control import TransportName
from atelier.core.errors import ReplicaLost
from tests.unit.control.calls import are_equal, new_call


class _Broken:
    """A transport that fails when a call is sent, or only when its residuals are awaited."""

    is_concurrent = False
    weights: Mapping[str, str] = {}

    def __init__(self, *, late: bool) -> None:
        self.num_starts = 0
        self._late = late

    def start(self, calls: Sequence[ControlCall], contexts: Contexts) -> Wait:  # noqa: ARG002 the Protocol's
        self.num_starts += 1
        if self._late:
            return self._fail
        self._fail()
        raise AssertionError

    def _fail(self) -> list[Residuals]:
        raise TransportFailed("gone")


@pytest.mark.parametrize("late", [False, True])
def test_the_next_transport_takes_over_and_the_failed_one_is_skipped(controlnets: ControlNets, late: bool) -> None:
    broken, failures = _Broken(late=late), list[TransportName]()
    in_order = InOrder({"same_node": broken, "in_process": InProcess(controlnets)}, on_failure=failures.append)
    call, contexts = new_call(seed=12)
    for _ in range(3):
        [ours] = in_order.start([call], contexts)()
        [expected] = InProcess(controlnets).start([call], contexts)()
        assert are_equal(ours, expected)
    assert (broken.num_starts, failures) == (1, ["same_node"])


def test_no_transport_left_is_a_lost_replica() -> None:
    call, contexts = new_call(seed=13)
    in_order = InOrder({"same_node": _Broken(late=True), "handle": _Broken(late=False)})
    for _ in range(2):
        with pytest.raises(ReplicaLost):
            in_order.start([call], contexts)()
