"""Answers of Serve's controller, in Serve's own classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ray.serve.schema import (
    APIType,
    ApplicationDetails,
    ApplicationStatus,
    DeploymentDetails,
    DeploymentSchema,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ReplicaDetails,
    ReplicaState,
    ServeInstanceDetails,
)

APP = "atelier"


class Deployed(NamedTuple):
    """A deployment for an answer: its replicas by id, and how many there should be."""

    status: DeploymentStatus
    replicas: Mapping[str, ReplicaState]
    num_wanted: int = 1
    message: str = ""


def answer_of(deployments: Mapping[str, Deployed]) -> ServeInstanceDetails:
    """Return the controller's answer about an application with these deployments."""
    application = ApplicationDetails(
        name=APP,
        status=ApplicationStatus.RUNNING,
        message="",
        last_deployed_time_s=0.0,
        source=APIType.DECLARATIVE,
        route_prefix="/",
        docs_path=None,
        external_scaler_enabled=False,
        deployed_app_config=None,
        deployments={name: _details(name, one) for name, one in deployments.items()},
    )
    return ServeInstanceDetails(proxies={}, applications={APP: application})


def _details(name: str, deployed: Deployed) -> DeploymentDetails:
    return DeploymentDetails(
        name=name,
        status=deployed.status,
        status_trigger=DeploymentStatusTrigger.UNSPECIFIED,
        message=deployed.message,
        deployment_config=DeploymentSchema(name=name),
        target_num_replicas=deployed.num_wanted,
        required_resources={},
        replicas=[
            ReplicaDetails(replica_id=replica_id, state=state, start_time_s=0.0)
            for replica_id, state in deployed.replicas.items()
        ],
    )
