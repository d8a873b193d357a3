"""Cost of tracing: latency of one image with tracing off, on for no request, and on for every request.

`python -m benchmarks.tracing` runs three graphs side by side, because a replica reads the config of tracing when it
starts, and asks them in turn. It prints the median of the rounds' ratios. Spans are written to files, as by default.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import ray
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from benchmarks.graph import PORT
from benchmarks.results import record
from deployments.deploy import deploy, status
from deployments.environment import ENVIRONMENT
from deployments.progress import is_running

_CONFIG = Path(__file__).parents[1] / "serve_config.yaml"
_TRACING: dict[str, dict[str, object]] = {
    "off": {"enabled": False},
    "unsampled": {"enabled": True, "sampling_ratio": 0.0},
    "sampled": {"enabled": True, "sampling_ratio": 1.0},
}
_PROMPT = "a large red circle on the left, white background"
_WARM_UP_ROUNDS = 3


@contextmanager
def running_graphs() -> Iterator[dict[str, str]]:
    """Start a graph for each config of tracing and yield their addresses."""
    os.environ.update(ENVIRONMENT)
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=len(_TRACING))
    config = yaml.safe_load(_CONFIG.read_text())
    config["http_options"]["port"] = PORT
    [application] = config["applications"]
    config["applications"] = []
    for name, tracing in _TRACING.items():
        config["applications"].append({**application, "name": name, "route_prefix": f"/{name}"})
        deploy(ServeDeploySchema.model_validate({**config, "tracing_config": tracing}))
        while not is_running(status()):
            time.sleep(0.5)
    yield {name: f"http://127.0.0.1:{PORT}/{name}" for name in _TRACING}
    serve.shutdown()
    ray.shutdown()


def _seconds(client: httpx2.Client, address: str, seed: int) -> float:
    start_s = time.perf_counter()
    client.post(f"{address}/v1/images/generations", json={"prompt": _PROMPT, "seed": seed}).raise_for_status()
    return time.perf_counter() - start_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    with running_graphs() as addresses, httpx2.Client(timeout=60) as client:
        times = [
            {name: _seconds(client, address, seed) for name, address in addresses.items()}
            for seed in range(_WARM_UP_ROUNDS + rounds)
        ][_WARM_UP_ROUNDS:]
    medians = {name: statistics.median(one[name] for one in times) for name in _TRACING}
    # Within a round, because a shared machine is not as fast in one minute as in the next.
    ratios = {name: statistics.median(one[name] / one["off"] for one in times) for name in _TRACING}
    record(
        "tracing",
        {
            "rounds": rounds,
            **{f"{name}_median_ms": round(1000 * median, 1) for name, median in medians.items()},
            "unsampled_ratio": round(ratios["unsampled"], 3),
            "sampled_ratio": round(ratios["sampled"], 3),
        },
    )


if __name__ == "__main__":
    main()
