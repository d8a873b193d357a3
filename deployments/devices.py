"""The state of the graph with the devices of its replicas, which the replicas themselves say.

Only deployments that run are asked: a call would wake one that is scaled to zero. ControlNet is left out, because
only Denoisers have a handle to it; so are Router and Worker, which have no models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence

from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentDetails, DeploymentStatus, ReplicaState

from atelier.core.fresh import Fresh
from atelier.core.status import Device, GraphStatus, Service, ServiceState, used_gpus
from deployments.handles import GraphHandles
from deployments.readiness import Readiness

logger = logging.getLogger(__name__)

#: Age at which replicas are asked again.
_MAX_AGE_S = 2.0
#: Time limit of an answer; a replica that has all its calls in progress answers after one of them.
_TIMEOUT_S = 1.0


class Devices:
    """The devices of all replicas that the Router calls, remembered while a replica is silent."""

    def __init__(self, handles: GraphHandles, readiness: Readiness) -> None:
        self._handles = (
            handles.text_encoder,
            handles.annotator,
            handles.denoiser,
            handles.autoencoder,
            handles.upscaler,
        )
        self._readiness = readiness
        self._deployments: Sequence[DeploymentDetails] = ()
        #: The last known device of each replica that runs, by the replica's id.
        self._known: dict[str, Device] = {}
        self._silent = Fresh(self._ask, max_age_s=_MAX_AGE_S)

    async def status(self) -> GraphStatus:
        """Return the state of the graph, at most two seconds old; a replica is given one second to answer."""
        self._deployments = await self._readiness.deployments()
        silent = await self._silent.get()
        asked = {handle.deployment_name for handle in self._handles}
        replicas = [
            (one.name, replica) for one in self._deployments if one.name in asked for replica in _running(one)
        ]
        devices = [(name, self._known[replica]) for name, replica in replicas if replica in self._known]
        return GraphStatus(
            services=tuple(_service(one, silent) for one in self._deployments),
            gpus=used_gpus(devices),
            models=tuple(sorted({model for _, device in devices for model in device.models})),
            is_complete=bool(self._deployments) and len(devices) == len(replicas),
        )

    async def _ask(self) -> Collection[str]:
        """Ask every running replica for its device. Returns the ids of those that did not answer in time."""
        running = {one.name: _running(one) for one in self._deployments}
        awake = [handle for handle in self._handles if running.get(handle.deployment_name)]
        answered = await _devices(awake)
        asked = {replica for handle in awake for replica in running[handle.deployment_name]}
        remembered = {one: self._known[one].without_numbers() for one in asked & self._known.keys()}
        self._known = remembered | answered
        return asked - answered.keys()


async def _devices(handles: Sequence[DeploymentHandle]) -> dict[str, Device]:
    """Return the devices of all replicas that answer in time, by the replica's id; log the failures of others."""
    answered: dict[str, Device] = {}
    asking = {asyncio.create_task(_hear(handle, answered)): handle.deployment_name for handle in handles}
    if not asking:
        return answered
    try:
        # Not `wait_for`, which waits until a cancelled call has ended.
        done, late = await asyncio.wait(asking, timeout=_TIMEOUT_S)
    finally:
        for task in asking:
            task.cancel()
    for task in done:
        if error := task.exception():
            logger.warning("%s could not be asked for its devices", asking[task], exc_info=error)
    for task in late:
        logger.warning("a replica of %s did not say its device within %s s", asking[task], _TIMEOUT_S)
    return answered


async def _hear(handle: DeploymentHandle, answered: dict[str, Device]) -> None:
    """Put the device of each replica into `answered` as soon as it is there; log the errors of replicas."""

    async def keep(answer: Awaitable[Device]) -> None:
        device = await answer
        answered[device.replica] = device

    # Not `results_async`, which has no answer before the slowest replica's.
    results = await handle.broadcast("device")._fetch_replica_results_async()
    for outcome in await asyncio.gather(*(keep(one.get_async()) for one in results), return_exceptions=True):
        if outcome is not None:
            logger.warning("a replica of %s did not say its device", handle.deployment_name, exc_info=outcome)


def _service(deployment: DeploymentDetails, silent: Collection[str]) -> Service:
    running = _running(deployment)
    return Service(
        name=deployment.name,
        status=_status(deployment, len(running)),
        num_running=len(running),
        num_wanted=deployment.target_num_replicas,
        num_silent=len(running.intersection(silent)),
        message=deployment.message or None,
    )


def _status(deployment: DeploymentDetails, num_running: int) -> ServiceState:
    if deployment.status in (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED):
        return "unhealthy"
    if num_running:
        return "running"
    return "starting" if deployment.target_num_replicas else "scaled_to_zero"


def _running(deployment: DeploymentDetails) -> set[str]:
    """Return the ids of a deployment's running replicas."""
    return {one.replica_id for one in deployment.replicas if one.state is ReplicaState.RUNNING}
