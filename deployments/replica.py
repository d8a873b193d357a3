"""The base of replicas that run models in one thread."""

from __future__ import annotations

from atelier.core.status import Device
from deployments.limits import ReplicaLimits, changed
from deployments.logs import log_to_serve
from deployments.options import ReplicaOptions


class Replica:
    """Base of deployments whose models run in one thread; Serve replaces a replica whose calls hang or all fail."""

    def __init__(self, name: str, options: ReplicaOptions) -> None:
        """Start the thread that runs the models, named `name`. Raises RuntimeError if the device is missing."""
        from atelier.local.runtime import Runtime
        from deployments.accelerator import OwnDevice, placement

        log_to_serve()
        self._limits = ReplicaLimits()
        place = placement(options)
        self._runtime = Runtime.start(name, place, num_threads=options.num_threads)
        self._device = OwnDevice(place, self._runtime.host.status)

    def reconfigure(self, user_config: object) -> None:
        """Take the limits in `user_config`, with calls in progress."""
        self._limits = changed(self._limits, user_config)

    def check_health(self) -> None:
        """Raise TimeoutError if the model call in progress takes longer than `stall_s`.

        Raises RuntimeError if the last calls have all failed.
        """
        self._runtime.thread.check(stall_s=self._limits.stall_s)

    async def device(self) -> Device:
        """Return the device that this replica runs on, and the models that it holds."""
        return await self._device.read()
