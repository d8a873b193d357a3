"""Simulation of a cluster of Denoisers, which runs the server's own queue, placing, admission and scaling.

`python -m benchmarks.simulate` prints throughput, latencies, fairness and utilisation of one run; `--draw` needs
`docs/requirements.txt`. `--record` runs what the measurements name: equal load per replica on 1 to 64 replicas, both
ways of routing on mixed requests, priorities, failures, and a day on up to 64 replicas that are scaled. Steps take
the time of a line; the default is tiny-sdxl on two cores of a CPU.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from atelier.core.work import UNMEASURED, StepTime
from benchmarks.results import record
from benchmarks.simulation.arrivals import EQUAL, MIXED, PROCESSES, Arrival, Mix, from_file
from benchmarks.simulation.cluster import Cluster, Outcome, Settings

#: A GPU on which a step of SDXL at 1024² takes 50 ms and 150 ms a row: an image of 20 steps takes about 7 s.
_SDXL = StepTime(fixed_s=0.05, pixel_row_s=0.15 / 1024**2)
_LARGE_MIX = Mix((1024, 768), (20, 30), (1, 2, 4), (True,), ("interactive", *["standard"] * 7, "batch", "batch"))
_DAY_S = 86_400


def capacity(settings: Settings, mix: Mix, *, num: int = 4000) -> float:
    """Return the requests per second of one replica, measured by giving it more than it can do."""
    alone = replace(settings, num_replicas=1, max_wait_s=math.inf, target_s=None, mean_life_s=math.inf)
    random = Random(1)
    requests = (replace(mix.arrival(0.0, random), arrival_s=0.0) for _ in range(num // 10))
    outcome = Cluster(alone).run(requests)
    return len(outcome.finished) / outcome.duration_s


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so large a share does not exceed."""
    return sorted(values)[min(math.ceil(share * len(values)), len(values)) - 1]


def numbers_of(outcome: Outcome) -> dict[str, float | int]:
    """Return what is printed of a run."""
    latencies = [latency_s for _, latency_s, _ in outcome.finished]
    slowdowns = [latency_s / alone_s for _, latency_s, alone_s in outcome.finished]
    fairness = sum(slowdowns) ** 2 / (len(slowdowns) * sum(one**2 for one in slowdowns))
    of_classes = {
        f"{name}: P99 relative to an idle replica": round(
            quantile([latency_s / alone_s for of, latency_s, alone_s in outcome.finished if of == name], 0.99), 2
        )
        for name in sorted({name for name, _, _ in outcome.finished})
    }
    return {
        "requests": len(outcome.finished),
        "refused": outcome.num_refused,
        "failures": outcome.num_failures,
        "requests per second": round(len(outcome.finished) / outcome.duration_s, 3),
        "P50, s": round(statistics.median(latencies), 3),
        "P99, s": round(quantile(latencies, 0.99), 3),
        **(of_classes if len(of_classes) > 1 else {}),
        "fairness (Jain's index of slowdowns)": round(fairness, 3),
        "utilisation": round(outcome.busy_s / outcome.replica_s, 3),
        "replicas, mean": round(outcome.replica_s / outcome.duration_s, 1),
    }


def run(settings: Settings, arrivals: Iterator[Arrival]) -> Outcome:
    """Simulate requests."""
    return Cluster(settings).run(arrivals)


def draw(outcome: Outcome, title: str, file: Path) -> None:
    """Draw latencies by class, and replicas and requests over time."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name in sorted({name for name, _, _ in outcome.finished}):
        latencies = sorted(one for of, one, _ in outcome.finished if of == name)
        left.plot(latencies, [100 * index / len(latencies) for index in range(len(latencies))], label=name)
    left.set(xlabel="latency, s", ylabel="requests that are as fast, %", xscale="log", title=title)
    left.legend()
    times_h = [time_s / 3600 for time_s, _, _ in outcome.history]
    right.plot(times_h, [num for _, _, num in outcome.history], color="#b9c4d3", lw=0.5, label="requests")
    right.plot(times_h, [num for _, num, _ in outcome.history], color="#4a6fa5", label="replicas")
    right.set(xlabel="hours", title="over time")
    right.legend()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def scaling_out(load: float = 0.8) -> dict[str, float | int]:
    """P99 at equal load per replica, on 1 to 64 replicas."""
    base = Settings(num_replicas=1, step_time=UNMEASURED, other_s=0.1)
    rate, numbers = load * capacity(base, MIXED), dict[str, float | int]()
    for num_replicas in (1, 2, 4, 8, 16, 32, 64):
        settings = replace(base, num_replicas=num_replicas)
        duration_s = 40_000 / (rate * num_replicas)
        outcome = run(settings, PROCESSES["poisson"](MIXED, rate * num_replicas, duration_s, Random(2)))
        numbers[f"P99 on {num_replicas} replicas, s"] = numbers_of(outcome)["P99, s"]
    largest = max(value for name, value in numbers.items() if name != "P99 on 1 replicas, s")
    return {**numbers, "largest P99 over that of one": round(largest / numbers["P99 on 1 replicas, s"], 3)}


def both_routings(load: float = 0.8, num_replicas: int = 8) -> dict[str, float | int]:
    """Least waiting against two choices, on the same mixed requests in bursts."""
    base = Settings(num_replicas=num_replicas, step_time=UNMEASURED, other_s=0.1)
    rate = load * capacity(base, MIXED) * num_replicas
    numbers: dict[str, float | int] = {}
    for process in ("poisson", "bursty"):
        of_routings = {}
        for routing in ("least-waiting", "two-choices"):
            arrivals = PROCESSES[process](MIXED, rate * (1 if process == "poisson" else 0.6), 4000, Random(3))
            of_routings[routing] = numbers_of(run(replace(base, routing=routing), arrivals))
        for name in ("P50, s", "P99, s", "utilisation"):
            ours, theirs = (of_routings[routing][name] for routing in ("least-waiting", "two-choices"))
            what = f"{process}, {name.removesuffix(', s')}"
            numbers[f"{what}: two choices over least waiting"] = round(theirs / ours, 3)
    return numbers


def classes() -> dict[str, float | int]:
    """Interactive requests at a tenth of the load, alone and while batch work fills the replica."""
    base = Settings(num_replicas=1, step_time=UNMEASURED, other_s=0.1, max_wait_s=math.inf)
    rate, random = capacity(base, EQUAL), Random(4)
    interactive = list(PROCESSES["poisson"](Mix(priorities=("interactive",)), rate / 10, 2000, random))
    batch = list(PROCESSES["poisson"](Mix(nums_of_images=(4,), priorities=("batch",)), rate / 3, 2000, random))
    both = sorted(interactive + batch, key=lambda arrival: arrival.arrival_s)
    alone, filled = (run(base, iter(arrivals)) for arrivals in (interactive, both))
    p99s = [
        quantile([latency_s for name, latency_s, _ in outcome.finished if name == "interactive"], 0.99)
        for outcome in (alone, filled)
    ]
    return {"P99 of interactive beside batch work over alone": round(p99s[1] / p99s[0], 3)}


def failures() -> dict[str, float | int]:
    """Replicas that die every ten minutes on average; nothing is lost."""
    base = Settings(num_replicas=8, step_time=UNMEASURED, other_s=0.1, mean_life_s=600)
    rate = 0.6 * capacity(base, MIXED) * base.num_replicas
    with_failures, without = (
        numbers_of(run(settings, PROCESSES["poisson"](MIXED, rate, 4000, Random(5))))
        for settings in (base, replace(base, mean_life_s=math.inf))
    )
    lost = without["requests"] - with_failures["requests"] - with_failures["refused"]
    return {
        "failures": with_failures["failures"],
        "requests lost by them": lost,
        "P99 with failures over without": round(with_failures["P99, s"] / without["P99, s"], 3),
    }


def day(file: Path | None = None) -> dict[str, float | int]:
    """A day of SDXL at 1024² and 768² on up to 64 GPUs, which are scaled by their work."""
    start_s = time.perf_counter()
    base = Settings(
        num_replicas=16,
        step_time=_SDXL,
        other_s=1.0,
        max_rows=16,
        default_side=1024,
        target_s=20,
        start_s=60,
        mean_life_s=_DAY_S,
        max_wait_s=120,
    )
    rate = 0.45 * 64 * capacity(base, _LARGE_MIX)
    outcome = run(base, PROCESSES["daily"](_LARGE_MIX, rate, _DAY_S, Random(6)))
    took_s = time.perf_counter() - start_s
    if file is not None:
        draw(outcome, "a day on up to 64 GPUs", file)
    return {**numbers_of(outcome), "seconds that the simulation took": round(took_s, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="run everything, and write benchmarks/results")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw the run")
    parser.add_argument("--trace", type=Path, metavar="CSV", help="take the requests from a file")
    parser.add_argument("--process", choices=sorted(PROCESSES), default="poisson")
    parser.add_argument("--load", type=float, default=0.8, help="share of the replicas' capacity")
    parser.add_argument("--equal", action="store_true", help="equal instead of mixed requests")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--routing", choices=["least-waiting", "two-choices"], default="least-waiting")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--life-s", type=float, default=math.inf, help="mean seconds between failures of a replica")
    parser.add_argument("--target-s", type=float, help="scale so that each replica has so many seconds of work")
    options = parser.parse_args()
    if options.record:
        parts = {
            "": scaling_out(),
            "routing: ": both_routings(),
            "classes: ": classes(),
            "failures: ": failures(),
            "day: ": day(options.draw),
        }
        record("simulate", {prefix + name: value for prefix, part in parts.items() for name, value in part.items()})
        return
    settings = Settings(
        num_replicas=options.replicas,
        step_time=UNMEASURED,
        other_s=0.1,
        routing=options.routing,
        mean_life_s=options.life_s,
        target_s=options.target_s,
    )
    mix = EQUAL if options.equal else MIXED
    rate = options.load * options.replicas * capacity(settings, mix)
    arrivals = (
        from_file(options.trace)
        if options.trace
        else PROCESSES[options.process](mix, rate, options.seconds, Random(settings.seed))
    )
    outcome = run(settings, arrivals)
    for name, value in numbers_of(outcome).items():
        print(f"{name}: {value}")
    if options.draw:
        draw(outcome, f"{options.process}, {options.replicas} replicas at {options.load:.0%}", options.draw)


if __name__ == "__main__":
    main()
