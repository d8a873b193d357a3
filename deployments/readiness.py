"""What Serve's controller knows of the graph: its deployments, and whether all of them are ready.

A call to every deployment would wait behind their work, and wake those that are scaled to zero.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import DeploymentDetails, DeploymentStatus, ReplicaState, ServeInstanceDetails

from atelier.core.fresh import Fresh

logger = logging.getLogger(__name__)

#: Age at which an answer of the controller is asked for again; it takes 40 ms to read.
_MAX_AGE_S = 2.0
_TIMEOUT_S = 1.0


def _ask_controller() -> ServeInstanceDetails:
    """Return what `serve.status` is made of, which leaves out how many replicas a deployment should have."""
    client = _get_global_client(raise_if_no_controller_running=False)
    details = ServeInstanceDetails.get_empty_schema_dict() if client is None else client.get_serve_details()
    return ServeInstanceDetails(**details)


class Readiness:
    """The deployments of one application, and their readiness."""

    def __init__(self, app_name: str, ask: Callable[[], ServeInstanceDetails] = _ask_controller) -> None:
        self._app_name = app_name
        self._ask_controller = ask
        self._answer = Fresh(self._ask, max_age_s=_MAX_AGE_S)

    async def is_ready(self) -> bool:
        """Return whether every deployment has a running replica or is scaled to zero; the answer may be old."""
        deployments = await self.deployments()
        return bool(deployments) and all(_is_ready(one) for one in deployments)

    async def deployments(self) -> Sequence[DeploymentDetails]:
        """Return all deployments, or none if the application does not exist or nothing is known yet.

        The answer is up to two seconds old, or older if the controller does not answer within a second: requests
        do not need it.
        """
        try:
            return await self._answer.get(timeout_s=_TIMEOUT_S)
        except (TimeoutError, RayError) as error:
            logger.warning("Serve's controller does not answer; its last answer is repeated", exc_info=error)
        return self._answer.last or ()

    async def _ask(self) -> Sequence[DeploymentDetails]:
        application = (await asyncio.to_thread(self._ask_controller)).applications.get(self._app_name)
        return () if application is None else tuple(application.deployments.values())


def _is_ready(deployment: DeploymentDetails) -> bool:
    is_asleep = deployment.status is DeploymentStatus.HEALTHY and not deployment.replicas
    return is_asleep or any(replica.state is ReplicaState.RUNNING for replica in deployment.replicas)
