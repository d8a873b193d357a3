"""Which replicas are refused, by the details that Serve's controller reports; these are of Serve's own class."""

from __future__ import annotations

import pytest
from ray.serve.schema import ReplicaDetails, ReplicaState

from deployments.one_node import OnOneNode

_SETTING = OnOneNode(setting="ATELIER_BLOBS_URL", value="file:///images", what="folder", instead="s3://bucket/prefix")


def _replica(name: str, node: str | None, state: ReplicaState = ReplicaState.RUNNING) -> ReplicaDetails:
    address = None if node is None else f"ip-of-{node}"
    return ReplicaDetails(
        actor_name=name, replica_id=name, state=state, start_time_s=0, node_id=node, node_ip=address
    )


_OWN = _replica("own", "here", ReplicaState.STARTING)


@pytest.mark.parametrize(
    "others",
    [
        (),
        (_replica("other", "here"),),
        (_replica("other", "there", ReplicaState.STOPPING),),
        (_replica("other", "there", ReplicaState.PENDING_MIGRATION),),
        (_replica("other", None, ReplicaState.STARTING),),
    ],
    ids=["alone", "on this node", "stops", "leaves its node", "has no node yet"],
)
def test_a_replica_may_share_its_node_and_replace_one_on_another(others: tuple[ReplicaDetails, ...]) -> None:
    _SETTING.refuse_other_nodes([*others, _OWN], "own")


@pytest.mark.parametrize(
    "state", [ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.UPDATING, ReplicaState.RECOVERING]
)
def test_a_replica_is_refused_while_one_is_on_another_node(state: ReplicaState) -> None:
    with pytest.raises(RuntimeError) as caught:
        _SETTING.refuse_other_nodes([_OWN, _replica("other", "there", state)], "own")
    assert str(caught.value).startswith(
        "ATELIER_BLOBS_URL = 'file:///images' is a folder of this node, ip-of-here, and a replica on the node "
        "ip-of-there cannot read it. Set ATELIER_BLOBS_URL=s3://bucket/prefix"
    )
