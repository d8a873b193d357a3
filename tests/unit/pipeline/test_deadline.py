from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from atelier.core.errors import DeadlineExceeded
from atelier.pipeline.deadline import Deadline

_SOON_S, _WAIT_S = 0.02, 10


def _within(events: AsyncGenerator[int], deadline_s: float | None) -> AsyncGenerator[int]:
    return Deadline(deadline_s, default_s=_WAIT_S).within(events)


class _Events:
    """A generator of the events 0, 1 and 2; if `hangs`, it then waits forever instead of ending."""

    def __init__(self, *, hangs: bool) -> None:
        self._hangs = hangs
        self.is_closed = False

    async def __call__(self) -> AsyncGenerator[int]:
        try:
            for index in range(3):
                yield index
            if self._hangs:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


@pytest.mark.parametrize("deadline_s", [None, _WAIT_S])
async def test_all_events_pass_in_time(deadline_s: float | None) -> None:
    events = _Events(hangs=False)
    assert [event async for event in _within(events(), deadline_s)] == [0, 1, 2]
    assert events.is_closed


async def test_events_that_take_too_long_end_with_an_error() -> None:
    events = _Events(hangs=True)
    limited = _within(events(), _SOON_S)
    assert [await anext(limited) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DeadlineExceeded, match=r"Not finished within deadline_s = 0\.02") as caught:
        await anext(limited)
    assert caught.value.param == "deadline_s"
    assert events.is_closed


async def test_the_limit_is_on_all_events_together() -> None:
    async def endless() -> AsyncGenerator[int]:
        while True:
            await asyncio.sleep(0)
            yield 0

    async with asyncio.timeout(_WAIT_S), aclosing(_within(endless(), _SOON_S)) as events:
        with pytest.raises(DeadlineExceeded):
            async for _ in events:
                pass


async def test_events_are_closed_when_the_consumer_leaves() -> None:
    events = _Events(hangs=True)
    async with aclosing(_within(events(), None)) as limited:
        assert await anext(limited) == 0
        assert not events.is_closed
    assert events.is_closed


async def test_each_event_may_be_asked_for_in_another_task() -> None:
    async with aclosing(_within(_Events(hangs=False)(), _WAIT_S)) as events:
        assert [await asyncio.create_task(anext(events)) for _ in range(3)] == [0, 1, 2]


async def test_errors_of_the_events_pass() -> None:
    async def broken() -> AsyncGenerator[int]:
        yield 0
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        [event async for event in _within(broken(), _WAIT_S)]


async def test_a_default_deadline_names_no_field() -> None:
    with pytest.raises(DeadlineExceeded, match=r"within the 0\.02 s that this server allows") as caught:
        async with Deadline(None, default_s=_SOON_S).enforced():
            await asyncio.Event().wait()
    assert caught.value.param is None


async def test_what_is_left_of_a_deadline_is_never_negative() -> None:
    assert 0 < Deadline(_WAIT_S, default_s=1).remaining_s <= _WAIT_S
    assert 0 < Deadline(None, default_s=1).remaining_s <= 1
    assert Deadline(-1.0, default_s=1).remaining_s == 0
