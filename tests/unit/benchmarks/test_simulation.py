"""The simulated cluster: nothing is lost, equal runs are equal, and what the scheduling code promises can be seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import mean, variance

import pytest

from atelier.core.priority import Priority
from atelier.core.work import StepTime
from benchmarks.simulate import capacity, numbers_of, quantile, run
from benchmarks.simulation.arrivals import EQUAL, MIXED, PROCESSES, Arrival, Mix, from_file
from benchmarks.simulation.cluster import Settings

#: A step of one image with guidance takes 1 s, and 0.5 s more for every further one.
_STEP_TIME = StepTime(fixed_s=0.5, pixel_row_s=0.25 / 128**2)
_ONE = Settings(num_replicas=1, step_time=_STEP_TIME)


def _latencies(settings: Settings, *arrivals: Arrival) -> list[float]:
    return [latency_s for _, latency_s, _ in run(settings, iter(arrivals)).finished]


def test_a_request_alone_takes_its_steps_and_what_is_outside_of_them() -> None:
    assert _latencies(_ONE, Arrival(arrival_s=5.0, num_steps=10)) == [10.0]
    assert _latencies(replace(_ONE, other_s=2.0), Arrival(arrival_s=5.0, num_steps=10)) == [12.0]
    assert _latencies(_ONE, Arrival(arrival_s=0.0, num_steps=10, num_images=3)) == [20.0]


def test_equal_requests_share_steps_from_the_next_one_on() -> None:
    """The second waits half a second for the first one's third step; then steps take 1.5 s."""
    arrivals = [Arrival(arrival_s=time_s, num_steps=10) for time_s in (0.0, 2.5)]
    assert _latencies(_ONE, *arrivals) == [3 + 7 * 1.5, 0.5 + 7 * 1.5 + 3]


def test_another_size_takes_turns() -> None:
    """A step of the large image takes 5 s. It takes another one, then the small one has as much time for its four."""
    large, small = Arrival(arrival_s=0.0, side=384, num_steps=4), Arrival(arrival_s=1.0, num_steps=4)
    assert _latencies(_ONE, large, small) == [5 + 5 + 4 - 1, 4 * 5 + 4]


def test_an_interactive_request_takes_the_place_of_batch_work() -> None:
    full = replace(_ONE, max_rows=2)
    arrivals = [
        Arrival(arrival_s=0.0, num_steps=100, priority="batch"),
        Arrival(arrival_s=10.5, num_steps=10, priority="interactive"),
    ]
    assert _latencies(full, *arrivals) == [10.5, 110.0]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("changes", [{}, {"mean_life_s": 30.0}, {"target_s": 4.0, "downscale_delay_s": 20.0}])
def test_every_request_is_finished_once_and_equal_runs_are_equal(process: str, changes: dict[str, float]) -> None:
    settings = replace(_ONE, num_replicas=3, start_s=5.0, max_wait_s=math.inf, **changes)  # type: ignore[arg-type]

    def arrivals() -> Iterator[Arrival]:
        mix = Mix((128, 192), (2, 5), (1, 2), (True, False), ("interactive", "standard", "batch"))
        return PROCESSES[process](mix, 0.3, 600, Random(1))

    first, second = (run(settings, arrivals()) for _ in range(2))
    assert len(first.finished) == sum(1 for _ in arrivals())
    assert first.finished == second.finished
    assert all(latency_s >= alone_s * 0.999 for _, latency_s, alone_s in first.finished)
    assert (first.num_failures > 0) == ("mean_life_s" in changes)


def test_replicas_are_added_under_load_and_removed_after_it() -> None:
    settings = replace(_ONE, target_s=10.0, start_s=5.0, downscale_delay_s=30.0, max_replicas=6, max_wait_s=math.inf)
    requests = [Arrival(arrival_s=number / 2, num_steps=10) for number in range(100)]
    history = run(settings, iter([*requests, Arrival(arrival_s=4000.0)])).history
    assert max(num for _, num, _ in history) == 6
    assert {num for time_s, num, _ in history if 3000 < time_s < 4000} == {1}


def test_requests_that_would_wait_too_long_are_refused() -> None:
    settings = replace(_ONE, max_wait_s=20)
    requests = [Arrival(arrival_s=float(number), num_steps=10) for number in range(2000)]
    outcome = run(settings, iter(requests))
    assert len(outcome.finished) + outcome.num_refused == len(requests)
    full_batch_s = 10 * 8.5
    assert all(latency_s < 20 + full_batch_s for _, latency_s, _ in outcome.finished[100:])


def test_the_capacity_is_that_of_a_full_batch() -> None:
    """Sixteen images of 20 steps, each of 0.5 + 32 · 0.25 s."""
    assert capacity(_ONE, EQUAL, num=6400) == pytest.approx(16 / (20 * 8.5), rel=0.02)


def test_more_replicas_at_equal_load_do_not_wait_longer() -> None:
    rate = 0.8 * capacity(_ONE, MIXED)
    p99s = [
        numbers_of(run(replace(_ONE, num_replicas=num), PROCESSES["poisson"](MIXED, rate * num, 20_000, Random(2))))[
            "P99, s"
        ]
        for num in (1, 8)
    ]
    assert p99s[1] <= 1.1 * p99s[0]


def test_placing_by_waiting_beats_two_choices_on_mixed_requests() -> None:
    settings = replace(_ONE, num_replicas=8)
    rate = 0.8 * 8 * capacity(_ONE, MIXED)
    p99s = {
        routing: numbers_of(
            run(replace(settings, routing=routing), PROCESSES["poisson"](MIXED, rate, 5000, Random(3)))
        )["P99, s"]
        for routing in ("least-waiting", "two-choices")
    }
    assert p99s["two-choices"] > 1.2 * p99s["least-waiting"]


@pytest.mark.parametrize("process", PROCESSES)
def test_arrivals_come_in_order_at_the_rate(process: str) -> None:
    times_s = [arrival.arrival_s for arrival in PROCESSES[process](EQUAL, 0.5, 86_400, Random(7))]
    assert times_s == sorted(times_s)
    assert len(times_s) == pytest.approx(0.5 * 86_400, rel=0.1)


def test_bursts_are_bursts_and_nights_are_quiet() -> None:
    """The variance of requests per ten seconds is about their mean for independent ones."""
    random = Random(8)
    counts = {}
    for process in PROCESSES:
        in_ten_s = [0] * 8640
        for arrival in PROCESSES[process](EQUAL, 0.5, 86_400, random):
            in_ten_s[int(arrival.arrival_s // 10)] += 1
        counts[process] = in_ten_s
    assert variance(counts["poisson"]) < 1.3 * mean(counts["poisson"])
    assert variance(counts["bursty"]) > 5 * mean(counts["bursty"])
    assert sum(counts["daily"][:720]) < 0.3 * sum(counts["daily"][3960:4680])


def test_a_file_has_requests_with_defaults(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,side,num_steps,priority,deadline_s\n0.5,192,30,batch,9\n1,,,,\n")
    priority: Priority = "batch"
    assert list(from_file(file)) == [
        Arrival(arrival_s=0.5, side=192, num_steps=30, priority=priority, deadline_s=9.0),
        Arrival(arrival_s=1.0),
    ]
    file.write_text("arrival_s\nnoon\n")
    with pytest.raises(ValueError, match="noon"):
        list(from_file(file))


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([3, 1, 2], 0.99) == 3
