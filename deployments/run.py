"""`python -m deployments.run CONFIG`: run a graph on a Ray of its own, which only this machine reaches.

It prints what the graph serves and needs, a line when a deployment is ready, and an example request when all are.
What Ray and Serve print goes to a file. Ctrl-C or SIGTERM stops the graph; a second one does not wait for requests to
end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deployments import loopback  # noqa: F401 before Ray

# isort: split
from deployments.deploy import deploy, status
from deployments.doctor import report
from deployments.own_output import output_in_file
from deployments.own_ray import own_ray
from deployments.progress import deployments, failure, is_running
from deployments.run_config import CannotStart, address_of, check_arguments, check_port, check_weights, read_config

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema

#: A look at the status costs 40 ms of a CPU, of which the replicas need all while they start.
_POLL_S = 1.0

_WELCOME = """
Atelier is ready at {address} (documentation: {address}/docs). Try, in another terminal:

  curl -s {address}/v1/images/generations -H 'content-type: application/json' \\
    -d '{{"prompt": "a red circle on the left, white background", "response_format": "url"}}'

and open the url in the response. Another prompt: "a small yellow star at the top and a large blue ring at the bottom,
black background". Ctrl-C stops the graph.
"""

Say = Callable[[str], object]


def main() -> int:
    """Run until Ctrl-C or SIGTERM; returns 1 if the graph cannot start."""
    parser = argparse.ArgumentParser(description="Run a graph on this machine.")
    parser.add_argument("config", type=Path, help="a Serve config, such as serve_config.yaml")
    try:
        config = read_config(parser.parse_args().config)
        check_port(config)
        check_arguments(config)
        check_weights(config)
        sys.stdout.write(report(config))
        _run(config)
    except CannotStart as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _run(config: ServeDeploySchema) -> None:
    """Start the graph and wait for a signal. Raises CannotStart, or KeyboardInterrupt once the graph has stopped."""
    start_s = time.monotonic()
    with output_in_file() as (terminal, file):
        terminal.write(f"Starting Ray on this machine. What it prints is in {file}\n")

        def say(line: str) -> None:
            terminal.write(f"{time.monotonic() - start_s:4.0f} s  {line}\n")

        _stop_on_signals()
        with own_ray():
            _stop_on_signals()  # Ray has replaced the handlers
            say("Ray has started")
            deploy(config)
            try:
                _wait_until_ready(address_of(config), say)
                say("ready")
                terminal.write(_WELCOME.format(address=address_of(config)))
                threading.Event().wait()
            except KeyboardInterrupt:
                say("stopping; Ctrl-C again stops without waiting for requests")
                raise


def _wait_until_ready(address: str, say: Say) -> None:
    """Say which deployments become ready until all are. Raises CannotStart if one fails."""
    said: set[str] = set()
    while True:
        now = status()
        if reason := failure(now):
            raise CannotStart(reason)
        states = deployments(now)
        for name in [name for name, is_ready in states.items() if is_ready and name not in said]:
            said.add(name)
            say(f"{name} is ready ({len(said)} of {len(states)})")
        if is_running(now) and _answers(f"{address}/ready"):
            return
        time.sleep(_POLL_S)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop_on_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a shell script's background processes ignore SIGINT."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
