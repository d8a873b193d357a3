"""Whether the graph is ready, as Serve's controller knows it.

A call to every deployment would wait behind their work, and wake those that are scaled to zero.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable

from ray import serve
from ray.exceptions import RayError
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatus, ReplicaState, ServeStatus

logger = logging.getLogger(__name__)

#: Age at which an answer of the controller is asked for again; it takes 40 ms to read.
_MAX_AGE_S = 2.0
_TIMEOUT_S = 1.0


class Readiness:
    """The readiness of one application."""

    def __init__(self, app_name: str, status: Callable[[], ServeStatus] = serve.status) -> None:
        self._app_name = app_name
        self._status = status
        self._is_ready = False
        self._asked_s = -_MAX_AGE_S
        self._asking: asyncio.Task[None] | None = None

    async def is_ready(self) -> bool:
        """Return whether every deployment has a running replica or is scaled to zero.

        The answer is up to two seconds old, or older if the controller does not answer within a second: requests
        do not need it.
        """
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_s > _MAX_AGE_S):
            self._asked_s = time.monotonic()
            # In a context of its own, so that it goes on if the client that asked first leaves.
            self._asking = asyncio.create_task(self._ask(), context=contextvars.Context())
        try:
            await asyncio.wait_for(asyncio.shield(self._asking), _TIMEOUT_S)
        except (TimeoutError, RayError) as error:
            logger.warning("Serve's controller does not answer; /ready repeats its last answer", exc_info=error)
        return self._is_ready

    async def _ask(self) -> None:
        applications = (await asyncio.to_thread(self._status)).applications
        self._is_ready = self._app_name in applications and _has_every_deployment(applications[self._app_name])


def _has_every_deployment(application: ApplicationStatusOverview) -> bool:
    return all(
        ReplicaState.RUNNING in deployment.replica_states
        or (deployment.status is DeploymentStatus.HEALTHY and not deployment.replica_states)
        for deployment in application.deployments.values()
    )
