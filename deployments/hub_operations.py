"""The operations on the model hub that other Ray applications call on the Router by handle."""

from __future__ import annotations

from atelier.api.native.hub import download_draft, found_models, installed_models
from atelier.core.params import DownloadParams, RepositoryKind
from atelier.hub.hub import Hub
from atelier.jobs.service import JobService
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import Observe
from deployments.answers import Answer
from deployments.calls import Sent, read_params, recorded
from deployments.job_operations import JobOperations


class HubOperations(JobOperations):
    """The operations of a pipeline, of its jobs and of the model hub, for callers by handle."""

    def __init__(self, pipeline: Pipeline, delivery: Delivery, observe: Observe, jobs: JobService, hub: Hub) -> None:
        """`observe` receives the record of every call when it has ended."""
        super().__init__(pipeline, delivery, observe, jobs)
        self._hub = hub

    async def search_hub(
        self, q: str = "", kind: RepositoryKind | None = None, base: str | None = None, limit: int = 10
    ) -> Answer:
        """Search the model hub. Takes and returns what GET /v1/hub/search does."""
        with recorded("search_hub", self._observe):
            return found_models(await self._hub.search(q, kind, base, limit=limit)).model_dump()

    async def download(self, params: Sent, idempotency_key: str | None = None) -> Answer:
        """Hand in a download, in the fields of POST /v1/hub/download. Returns the job."""
        with recorded("download", self._observe):
            draft = await download_draft(self._hub, read_params(DownloadParams, params), idempotency_key)
            [job] = await self._jobs.submit(self._pipeline, [draft])
            return await self._answer(job)

    async def installed(self) -> Answer:
        """Return what was downloaded, as GET /v1/hub/installed does."""
        with recorded("installed", self._observe):
            return installed_models(await self._hub.installed()).model_dump(exclude_none=True)

    async def remove(self, entry_id: str) -> None:
        """Remove what was downloaded, with its files."""
        with recorded("remove", self._observe):
            await self._hub.remove(entry_id)
