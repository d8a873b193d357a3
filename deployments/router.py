"""Router: the ingress, which maps HTTP requests and handle calls to the same pipeline methods."""

from __future__ import annotations

import asyncio

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from atelier.api.app import build_app
from atelier.api.host import Host
from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import RequestRecord, log_request
from deployments.calls import detached_context
from deployments.errors import send_errors_as_fields
from deployments.handles import GraphHandles
from deployments.hub_operations import HubOperations
from deployments.limits import RouterLimits, changed
from deployments.logs import log_to_serve
from deployments.metrics import RouterMetrics
from deployments.options import RouterOptions
from deployments.readiness import Readiness
from deployments.settings import Settings
from deployments.stages import HandleStages
from deployments.storage import open_blobs, open_hub, open_jobs
from deployments.tracing import stay_in_serves_trace

#: Path of a stored file below the route prefix. Handle calls return the path alone, without a server's address.
_FILE_PATH = "/v1/images/files/{name}"


@serve.ingress()
class Router(HubOperations):
    """The graph's ingress: the HTTP application, and the operations for other Ray applications."""

    # Serve awaits the constructor.
    async def __init__(  # type: ignore[misc]
        self,
        catalogue: Catalogue,
        options: RouterOptions,
        handles: GraphHandles,
        worker: DeploymentHandle,  # noqa: ARG002
    ) -> None:
        """Start the pipeline and open the stores of images and jobs.

        `worker` is never called: bound here, it belongs to the application. Raises what `open_blobs` and `open_jobs`
        raise.
        """
        log_to_serve()
        stay_in_serves_trace()
        send_errors_as_fields()
        handles.prefer_own_node()
        self._options = options
        self._host = Host()
        self._settings = settings = Settings()
        self._blobs = await open_blobs(settings)
        stores = await open_jobs(settings)
        jobs = stores.jobs
        self._limits = limits = RouterLimits()
        self._metrics = RouterMetrics()
        readiness = Readiness(serve.get_replica_context().app_name)
        self._stages = HandleStages(handles, readiness, limits.of_calls, own_metrics=self._metrics.text)
        self._cache = stores.cache(self._stages, catalogue.loras, max_bytes=limits.max_cache_bytes)
        beside = (
            self._blobs.sweep(),
            jobs.files.sweep(),
            stores.cached_files.sweep(),
            self._cache.sweep(),
            jobs.changes.watch(),
        )
        self._tasks = [asyncio.create_task(one) for one in beside]
        super().__init__(
            Pipeline(self._stages, catalogue, limits.of_pipeline, cache=self._cache, new_context=detached_context),
            Delivery(self._blobs, lambda name: _FILE_PATH.format(name=name)),
            self._record,
            jobs,
            open_hub(catalogue),
        )
        self._app = self._new_app()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app(scope, receive, send)

        return app

    def reconfigure(self, user_config: object) -> None:
        """Take the limits in `user_config`, with requests in progress."""
        self._limits = limits = changed(self._limits, user_config)
        self._stages.limits = limits.of_calls
        self._pipeline.set_limits(limits.of_pipeline)
        self._cache.max_bytes = limits.max_cache_bytes
        self._app = self._new_app()

    def _new_app(self) -> ASGIApp:
        return build_app(
            self._pipeline,
            self._blobs,
            self._jobs,
            max_body_bytes=self._limits.max_body_bytes,
            default_response_format=self._options.default_response_format,
            public_url=self._settings.public_url,
            allowed_origins=self._settings.allowed_origins,
            returns_request_id=False,
            observe=self._record,
            host=self._host,
            model_hub=self._hub,
        )

    def _record(self, record: RequestRecord) -> None:
        """Log and count a request that has ended."""
        log_request(record)
        self._metrics.observe(record)
