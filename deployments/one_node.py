"""Whether the replicas that share files are on one node, as Serve's controller knows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ReplicaDetails, ReplicaState, ServeInstanceDetails

#: The deployments that read and write the files.
_SHARING = ("Router", "Worker")
#: States of replicas that another one may already replace.
_LEAVING = (ReplicaState.STOPPING, ReplicaState.PENDING_MIGRATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnOneNode:
    """A setting whose value is a file or folder of one node."""

    setting: str
    value: str
    #: What it is: a file or a folder.
    what: str
    #: What to set where replicas run on several nodes.
    instead: str

    async def check(self) -> None:
        """Raise RuntimeError if a replica that shares it with this one is on another node.

        Call it in the replica's constructor. Serve's controller knows the node of a replica before it calls the
        constructor, so of two replicas that start at the same time on two nodes at least one is refused. One that
        runs already goes on. Replicas that stop or leave a drained node do not count, so that a single replica can
        move.

        Refused as well, although it could work, are a network drive that both nodes share, and an update to another
        node while replicas of the old version run. A replica that the controller has not found again after its own
        restart is not noticed.
        """
        context = serve.get_replica_context()
        details = await asyncio.to_thread(lambda: ServeInstanceDetails(**_get_global_client().get_serve_details()))
        deployments = details.applications[context.app_name].deployments
        replicas = [one for name in _SHARING if name in deployments for one in deployments[name].replicas]
        self.refuse_other_nodes(replicas, context.replica_id.unique_id)

    def refuse_other_nodes(self, replicas: Iterable[ReplicaDetails], own_id: str) -> None:
        """Raise RuntimeError if one of the replicas is on another node than the one with the id `own_id`."""
        placed = [one for one in replicas if one.node_id is not None and one.state not in _LEAVING]
        [own] = [one for one in placed if one.replica_id == own_id]
        other = next((one for one in placed if one.node_id != own.node_id), None)
        if other is not None:
            raise RuntimeError(
                f"{self.setting} = {self.value!r} is a {self.what} of this node, {own.node_ip}, and a replica on the "
                f"node {other.node_ip} cannot read it. Set {self.setting}={self.instead} for all Routers and Workers "
                "under runtime_env.env_vars of the application in the Serve config or in the environment of "
                "`ray start` on every node; or keep them on one node."
            )
