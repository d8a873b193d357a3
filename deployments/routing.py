"""How a handle chooses the Denoiser of a request: one that has the request's LoRAs in memory, unless it is busier.

Without LoRAs, Serve's own choice is made: the less busy of two random replicas. So it is for a request that is
repeated, because the replica with its LoRAs may be the one that was lost, and frozen until Serve replaces it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import TypeVar

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RunningReplica

from atelier.core.denoising import DenoiseRequest

#: Seconds between two reports of a replica's LoRAs.
_REPORT_PERIOD_S = 2.0
#: A replica with the LoRAs may have so many requests more than another one, and is still preferred.
_MAX_MORE_REQUESTS = 4

R = TypeVar("R", bound=Hashable)


class ResidentLoras(PowerOfTwoChoicesRequestRouter):  # type: ignore[misc]  # Ray has no types for it
    """Serve's request router of the Denoiser."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas of which the one with the fewest requests is chosen, or the first one of equals."""
        if loras := _loras(pending_request):
            lengths = self.replica_queue_len_cache
            resident = {replica: replica.routing_stats.get("loras", ()) for replica in candidate_replicas}
            chosen = candidates(resident, loras, lambda replica: lengths.get(replica.replica_id) or 0)
            if chosen:
                return [chosen]
        chosen_by_serve: list[list[RunningReplica]] = await super().choose_replicas(
            candidate_replicas, pending_request
        )
        return chosen_by_serve


def candidates(
    resident: Mapping[R, Collection[str]],
    loras: Collection[str],
    num_requests: Callable[[R], int],
) -> list[R]:
    """Return a random replica with the most of these LoRAs and, if it is much busier, a random other one behind it.

    `resident` are the LoRAs of each replica. Returns none if no replica has any of these.
    """
    counts = {replica: len(set(loras) & set(of_replica)) for replica, of_replica in resident.items()}
    most = max(counts.values(), default=0)
    if most == 0:
        return []
    preferred = random.choice([replica for replica, count in counts.items() if count == most])
    others = [replica for replica in resident if replica != preferred]
    if not others:
        return [preferred]
    other = random.choice(others)
    if num_requests(preferred) <= num_requests(other) + _MAX_MORE_REQUESTS:
        return [preferred]
    return [preferred, other]


def _loras(pending: PendingRequest | None) -> list[str]:
    """Return the LoRAs by which a replica is chosen."""
    request = pending.args[0] if pending is not None and pending.args else None
    if not isinstance(request, DenoiseRequest) or request.is_repeated:
        return []
    return [lora.id for lora in request.pass_.loras]


ROUTING = RequestRouterConfig(request_router_class=ResidentLoras, request_routing_stats_period_s=_REPORT_PERIOD_S)
