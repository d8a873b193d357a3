"""How a Router's handle chooses the Denoiser of a request, by `atelier.pipeline.placing`.

Serve makes one `LeastWaiting` in every process that calls the Denoiser. It also learns when a replica is to be
stopped, and asks the requests there to leave (`deployments.leaving`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from cachetools import LRUCache
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from atelier.core.denoising import DenoiseRequest
from atelier.core.work import UNMEASURED, Load, StepTime, Work
from atelier.pipeline.placing import Placing, Report
from deployments import leaving

#: Seconds between two reports of a replica.
_REPORT_PERIOD_S = 2.0
#: Number of requests of which it is remembered where they have been.
_MAX_REMEMBERED = 10_000


class LeastWaiting(RequestRouter):  # type: ignore[misc]  # Ray has no types for it
    """Serve's request router of the Denoiser. All methods are called in one thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._placing = Placing[ReplicaID]()
        #: The engine's ids of the requests in replicas, by Serve's.
        self._request_ids: dict[str, str] = {}
        #: Replicas that a request has been in, by the part of its id that its attempts share.
        self._been_in: LRUCache[str, set[ReplicaID]] = LRUCache(_MAX_REMEMBERED)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas, the best one first; those that the request has been in last."""
        replicas = {replica.replica_id: replica for replica in candidate_replicas}
        names = random.sample(list(replicas), len(replicas))
        if pending_request is not None:
            # Without it, Serve would ask again at once for as long as all replicas are full.
            pending_request.routing_context.should_backoff = True
        request = _denoise_request(pending_request)
        if pending_request is not None and request is not None:
            work, serve_id = Work.of(request), pending_request.metadata.internal_request_id
            been_in = self._been_in.get(_shared_id(request), set()) if request.is_repeated else set()
            names = sorted(self._placing.ranked(names, work), key=been_in.__contains__)
            # Count it at once, so that requests that come together go to different replicas.
            self._placing.place(serve_id, names[0], work)
            pending_request.future.add_done_callback(partial(self._forget_cancelled, serve_id))
        return [[replicas[name]] for name in names]

    def _forget_cancelled(self, serve_id: str, future: Any) -> None:
        if future.cancelled():
            self._placing.finish(serve_id)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        """Count a request in the replica that has accepted it, unless it has ended already, as short ones have."""
        super().on_request_routed(pending_request, replica_id, result)
        serve_id, request = pending_request.metadata.internal_request_id, _denoise_request(pending_request)
        if request is None:
            return
        self._been_in.setdefault(_shared_id(request), set()).add(replica_id)
        if self._placing.is_placed(serve_id):
            self._placing.place(serve_id, replica_id, Work.of(request))
            self._request_ids[serve_id] = request.request_id

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Forget a request that has ended."""
        super().on_request_completed(replica_id, internal_request_id)
        self._placing.finish(internal_request_id)
        self._request_ids.pop(internal_request_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take the reports of the replicas, and let requests leave one that is to be stopped, if there are others."""
        names = {replica.replica_id for replica in replicas}
        for name in self._placing.names - names:
            if names:
                serve_ids = self._placing.requests_at(name)
                leaving.ask(self._request_ids[serve_id] for serve_id in serve_ids if serve_id in self._request_ids)
            self._placing.remove(name)
        for replica in replicas:
            self._placing.report(replica.replica_id, report_of(replica.routing_stats))
        super().update_replicas(replicas)


def stats_of(report: Report) -> dict[str, object]:
    """Return a report as what a replica's `record_routing_stats` returns."""
    return {
        "loras": sorted(report.loras),
        "step_time": [report.step_time.fixed_s, report.step_time.pixel_row_s],
        "loads": [
            [priority, key, load.num_requests, load.pixel_rows, load.num_steps]
            for (priority, key), load in report.loads.items()
        ],
    }


def report_of(stats: Mapping[str, Any]) -> Report:
    """Return the report in a replica's routing stats, which are empty at first."""
    loads: Iterable[tuple[str, list[object], int, float, int]] = stats.get("loads", ())
    return Report(
        loads={(priority, tuple(key)): Load(num, rows, steps) for priority, key, num, rows, steps in loads},
        loras=stats.get("loras", ()),
        step_time=StepTime(*stats["step_time"]) if "step_time" in stats else UNMEASURED,
    )


def _denoise_request(pending: PendingRequest | None) -> DenoiseRequest | None:
    request = pending.args[0] if pending is not None and pending.args else None
    return request if isinstance(request, DenoiseRequest) else None


def _shared_id(request: DenoiseRequest) -> str:
    """Return the part of a request's id that is before the number of the attempt."""
    return request.request_id.rpartition(".")[0]


ROUTING = RequestRouterConfig(request_router_class=LeastWaiting, request_routing_stats_period_s=_REPORT_PERIOD_S)
