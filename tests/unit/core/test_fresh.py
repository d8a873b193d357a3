from __future__ import annotations

import asyncio
from contextvars import ContextVar

import pytest

from atelier.core.fresh import Fresh

_NEVER_S, _ALWAYS_S, _LONG_S = 1000.0, -1.0, 10.0
request: ContextVar[str | None] = ContextVar("request", default=None)


class _Question:
    """A question whose answers are 1, 2, …, given while `may_answer` is set."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.requests: list[str | None] = []

    async def ask(self) -> int:
        self.num_asked += 1
        self.requests.append(request.get())
        number = self.num_asked
        await self.may_answer.wait()
        return number


@pytest.mark.parametrize(("max_age_s", "expected"), [(_NEVER_S, [1, 1]), (_ALWAYS_S, [1, 2])])
async def test_a_value_is_asked_for_again_when_it_is_old(max_age_s: float, expected: list[int]) -> None:
    fresh = Fresh(_Question().ask, max_age_s=max_age_s)
    assert [await fresh.get(), await fresh.get()] == expected


async def test_callers_that_come_together_share_a_question_even_if_the_first_leaves() -> None:
    question = _Question()
    question.may_answer.clear()
    fresh = Fresh(question.ask, max_age_s=_ALWAYS_S)
    callers = [asyncio.create_task(fresh.get()) for _ in range(3)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    question.may_answer.set()
    async with asyncio.timeout(_LONG_S):
        assert await asyncio.gather(*callers[1:]) == [1, 1]


async def test_an_answer_that_comes_too_late_is_kept() -> None:
    question = _Question()
    question.may_answer.clear()
    fresh = Fresh(question.ask, max_age_s=_NEVER_S)
    with pytest.raises(TimeoutError):
        await fresh.get(timeout_s=0.01)
    assert fresh.last is None
    question.may_answer.set()
    assert await fresh.get(timeout_s=_LONG_S) == 1
    assert fresh.last == 1


async def test_the_question_does_not_belong_to_the_request_that_asks() -> None:
    question = _Question()
    request.set("the first")
    await Fresh(question.ask, max_age_s=_NEVER_S).get()
    assert question.requests == [None]


async def test_an_error_is_raised_and_leaves_the_last_answer() -> None:
    answers: list[int | Exception] = [ValueError("no answer"), 1]

    async def ask() -> int:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    fresh = Fresh(ask, max_age_s=_ALWAYS_S)
    assert await fresh.get() == 1
    with pytest.raises(ValueError, match="no answer"):
        await fresh.get()
    assert fresh.last == 1
