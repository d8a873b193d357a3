"""Whether the replicas of a deployment are on one node, as Serve's controller knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaDetails, ReplicaState, ServeInstanceDetails

#: States of replicas that another one may already replace.
_LEAVING = (ReplicaState.STOPPING, ReplicaState.PENDING_MIGRATION)


async def check_one_node(blobs_url: str) -> None:
    """Raise RuntimeError if another replica of this deployment is on another node, which cannot read `blobs_url`.

    Call it in the replica's constructor. Serve's controller knows the node of a replica before it calls the
    constructor, so of two replicas that start at the same time on two nodes at least one is refused. One that runs
    already goes on. Replicas that stop or leave a drained node do not count, so that a single replica can move.

    Refused as well, although it could work, are a network drive that both nodes share, and an update to another node
    while replicas of the old version run. A replica that the controller has not found again after its own restart is
    not noticed.
    """
    context = serve.get_replica_context()
    details = await asyncio.to_thread(lambda: ServeInstanceDetails(**_get_global_client().get_serve_details()))
    deployment = details.applications[context.app_name].deployments[context.deployment]
    refuse_other_nodes(deployment.replicas, context.replica_id.unique_id, blobs_url)


def refuse_other_nodes(replicas: Iterable[ReplicaDetails], own_id: str, blobs_url: str) -> None:
    """Raise RuntimeError if one of the replicas is on another node than the one with the id `own_id`."""
    placed = [one for one in replicas if one.node_id is not None and one.state not in _LEAVING]
    [own] = [one for one in placed if one.replica_id == own_id]
    other = next((one for one in placed if one.node_id != own.node_id), None)
    if other is not None:
        raise RuntimeError(
            f"ATELIER_BLOBS_URL = {blobs_url!r} is a folder of this node, {own.node_ip}, and a Router on the node "
            f"{other.node_ip} cannot read it. Set ATELIER_BLOBS_URL=s3://bucket/prefix for all Routers, under "
            "runtime_env.env_vars of the application in the Serve config or in the environment of `ray start` on "
            "every node; or keep the Routers on one node."
        )
