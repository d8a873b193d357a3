"""The work of requests, and the waiting it makes, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from atelier.core.adapters import Lora
from atelier.core.origin import Origin
from atelier.core.sampling import Sampling
from atelier.core.snapshot import Snapshot
from atelier.core.work import Load, StepTime, Work, busy_s, loads_of, waiting_s
from tests.unit.engine.requests import new_request


def test_the_work_of_a_request_is_its_rows_and_the_steps_that_are_left() -> None:
    sampling = Sampling(num_inference_steps=10, sampler="heun")
    request = replace(new_request(num_images=3, loras=(Lora("a", 1.0),), sampling=sampling), priority="batch")
    work = Work.of(request)
    assert (work.pixel_rows, work.num_steps, work.priority) == (6 * 96 * 64, 19, "batch")
    assert work.loras == {"a"}
    latents = np.zeros((3, 4, 8, 12), np.float32)
    snapshot = Snapshot(step=5, latents=latents, denoised_1=None, denoised_2=None, origin=Origin("", {}))
    assert Work.of(replace(request, resume=snapshot)) == replace(work, num_steps=14)
    exact = replace(request, pass_=replace(request.pass_, reproducibility="exact"))
    assert Work.of(exact).key != work.key


def _work(key: str, rows: float, steps: int, priority: str = "standard") -> Work:
    return Work(key=key, priority=priority, pixel_rows=rows, num_steps=steps)


def test_requests_of_one_key_and_priority_are_added() -> None:
    works = [_work("a", 2, 10), _work("a", 1, 5), _work("b", 1, 1), _work("a", 4, 4, "batch")]
    assert loads_of(works) == {
        ("standard", "a"): Load(2, 3, 15),
        ("standard", "b"): Load(1, 1, 1),
        ("batch", "a"): Load(1, 4, 4),
    }


@pytest.mark.parametrize(
    ("works", "expected_s"),
    [
        ([], 0),
        # 10 steps of 1 + 2 · 0.5 s.
        ([_work("a", 2, 10)], 20),
        # Two requests, each with 10 steps of 1 + 4 · 0.5 s.
        ([_work("a", 2, 10), _work("a", 2, 10)], 60),
        # Two requests that take turns, each with 10 steps of 2 s in half of the time.
        ([_work("a", 2, 10), _work("b", 2, 10)], 80),
        # 10 steps of 2 s in 4/5 of the time, and as many in 1/5.
        ([_work("a", 2, 10), _work("a", 2, 10, "batch")], 25 + 100),
    ],
)
def test_the_waiting_is_added_over_all_requests(works: list[Work], expected_s: float) -> None:
    assert waiting_s(loads_of(works), StepTime(1.0, 0.5)) == pytest.approx(expected_s)


def test_a_denoiser_is_busy_until_the_last_request_of_each_key_has_finished() -> None:
    works = [_work("a", 2, 10), _work("a", 2, 10), _work("b", 2, 10), _work("b", 2, 10, "batch")]
    assert busy_s(loads_of(works), StepTime(1.0, 0.5)) == pytest.approx(30 + 20 + 20)
    assert busy_s({}, StepTime(1.0, 0.5)) == 0
