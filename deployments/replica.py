"""The base of replicas that run models in one thread."""

from __future__ import annotations

from deployments.options import ReplicaOptions


class Replica:
    """A replica with a runtime for its models, which Serve replaces when a model call hangs."""

    def __init__(self, name: str, options: ReplicaOptions) -> None:
        """`name` is the name of the thread. Raises RuntimeError if the device is missing."""
        from atelier.local import Runtime
        from deployments.accelerator import placement

        self._stall_s = options.stall_s
        self._runtime = Runtime.start(name, placement(options), num_threads=options.num_threads)

    async def ping(self) -> None:
        """Return at once; callers learn that the replica is alive."""

    def check_health(self) -> None:
        """Raise TimeoutError if the model call in progress has been running for longer than `stall_s`."""
        self._runtime.thread.check(stall_s=self._stall_s)
