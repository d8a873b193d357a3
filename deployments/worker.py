"""Worker: does durable jobs and delivers their webhooks, by a Router's pipeline and with no models of its own."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Coroutine

from ray import serve

from atelier.api.app import webhook_fields
from atelier.catalogue.catalogue import Catalogue
from atelier.core.jobs import WorkerId
from atelier.jobs.perform import Performer
from atelier.jobs.sending import Sender
from atelier.jobs.service import JobService
from atelier.jobs.webhooks import Deliverer
from atelier.jobs.worker import LEASE_S
from atelier.jobs.worker import Worker as JobWorker
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord, log_request
from atelier.stores.claims import Claims
from deployments.handles import GraphHandles
from deployments.limits import WorkerLimits, changed
from deployments.logs import log_to_serve
from deployments.metrics import RouterMetrics
from deployments.readiness import Readiness
from deployments.settings import Settings
from deployments.stages import HandleStages
from deployments.storage import open_hub, open_jobs, webhook_key

#: Seconds between two deletions of old jobs.
_PURGE_PERIOD_S = 600.0


class Worker:
    """The deployment that does jobs. Nobody calls it: it claims jobs from the database."""

    # Serve awaits the constructor.
    async def __init__(self, catalogue: Catalogue, handles: GraphHandles) -> None:  # type: ignore[misc]
        """Open the database of jobs and begin to work. Raises what `open_jobs` raises."""
        log_to_serve()
        handles.prefer_own_node()
        self._limits = limits = WorkerLimits()
        settings = Settings()
        self._ttl = settings.jobs_ttl
        stores = await open_jobs(settings)
        self._service = stores.jobs
        context = serve.get_replica_context()
        stages = HandleStages(handles, Readiness(context.app_name), limits.of_calls, own_metrics=lambda: "")
        self._cache = stores.cache(stages, catalogue.loras, max_bytes=limits.max_cache_bytes)
        self._stages = stages
        self._pipeline = Pipeline(stages, catalogue, limits.of_pipeline, cache=self._cache)
        self._metrics = RouterMetrics()
        perform = Performer(self._pipeline, self._service.files, self._record, open_hub(catalogue)).perform
        claims = Claims(stores.database, WorkerId(context.replica_id.unique_id), lease_s=LEASE_S)
        self._worker = JobWorker(claims, self._service.changes, perform, max_running=limits.max_running)
        beside = (
            self._worker.run(),
            self._service.changes.watch(),
            self._purge(),
            self._cache.sweep(),
            *_deliveries(settings, self._service),
        )
        self._tasks = [asyncio.create_task(one, context=contextvars.Context()) for one in beside]

    def reconfigure(self, user_config: object) -> None:
        """Take the limits in `user_config`, with jobs in progress."""
        self._limits = limits = changed(self._limits, user_config)
        self._stages.limits = limits.of_calls
        self._pipeline.set_limits(limits.of_pipeline)
        self._cache.max_bytes = limits.max_cache_bytes
        self._worker.max_running = limits.max_running

    def check_health(self) -> None:
        """Raise RuntimeError if the worker has ended."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError("the worker has ended") from task.exception()

    async def __del__(self) -> None:
        """Give the jobs in progress back. Serve awaits it when it stops the replica."""
        self._tasks[0].cancel()
        await asyncio.wait(self._tasks[:1])

    def _record(self, record: RequestRecord) -> None:
        """Log and count an attempt at a job."""
        log_request(record)
        self._metrics.observe(record)

    async def _purge(self) -> None:
        """Delete jobs that have ended long ago, until cancelled."""
        while True:
            await self._service.purge(finished_before=time.time() - self._ttl.total_seconds())
            await asyncio.sleep(_PURGE_PERIOD_S)


def _deliveries(settings: Settings, service: JobService) -> list[Coroutine[None, None, None]]:
    """Return what delivers webhooks; empty if this server sends none."""
    key = webhook_key(settings)
    if key is None or service.receivers is None:
        return []
    sender = Sender(key, service.receivers)
    return [Deliverer(service.jobs, service.changes, sender.send, webhook_fields).run()]
