"""The replicas of a running graph, as Serve's controller knows them, and ways to lose them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from typing import cast

from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaState, ServeInstanceDetails

#: The deployments behind the Router.
STAGES = ("TextEncoder", "Annotator", "Denoiser", "Autoencoder", "Upscaler")

_WAIT_S = 90


@dataclass(frozen=True)
class Replica:
    """A replica and its process."""

    replica_id: str
    pid: int
    node_id: str


def replicas_of(deployment: str, app: str = "atelier") -> list[Replica]:
    """Return the running replicas of a deployment."""
    details = ServeInstanceDetails.model_validate(_get_global_client().get_serve_details())
    return [
        Replica(replica.replica_id, cast(int, replica.pid), cast(str, replica.node_id))
        for replica in details.applications[app].deployments[deployment].replicas
        if replica.state is ReplicaState.RUNNING
    ]


def kill(deployment: str, node_id: str | None = None) -> Replica:
    """Kill one replica of a deployment, on the given node if there is one."""
    return _signal(deployment, signal.SIGKILL, node_id)


def freeze(deployment: str, node_id: str | None = None) -> Replica:
    """Stop the process of one replica of a deployment without ending it, on the given node if there is one."""
    return _signal(deployment, signal.SIGSTOP, node_id)


def _signal(deployment: str, number: signal.Signals, node_id: str | None = None) -> Replica:
    replica = min(replicas_of(deployment), key=lambda one: one.node_id != node_id)
    os.kill(replica.pid, number)
    return replica


async def until_replaced(lost: Replica, deployment: str, *, num_replicas: int = 1) -> float:
    """Wait until as many other replicas run. Returns the seconds it took."""
    start_s = time.monotonic()
    while len([one for one in replicas_of(deployment) if one.replica_id != lost.replica_id]) < num_replicas:
        assert time.monotonic() - start_s < _WAIT_S, f"{deployment} was not replaced within {_WAIT_S} s"
        await asyncio.sleep(0.2)
    return time.monotonic() - start_s
