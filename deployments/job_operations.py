"""The operations on durable jobs that other Ray applications call on the Router by handle."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from atelier.api.app import path_of
from atelier.api.native.batches import batch_of, batch_response
from atelier.api.native.job_answers import job_response
from atelier.api.native.job_inputs import draft_of
from atelier.api.native.job_schemas import JobRequest
from atelier.api.native.job_watching import messages_of
from atelier.core.jobs import Job, JobId
from atelier.core.params import parse
from atelier.jobs.service import JobService
from atelier.pipeline.delivery import Delivery
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import Observe
from deployments.answers import Answer
from deployments.calls import recorded
from deployments.operations import Operations


class JobOperations(Operations):
    """The operations of a pipeline and of its jobs, for callers by handle. Addresses in answers are paths."""

    def __init__(self, pipeline: Pipeline, delivery: Delivery, observe: Observe, jobs: JobService) -> None:
        """`observe` receives the record of every call when it has ended."""
        super().__init__(pipeline, delivery, observe)
        self._jobs = jobs

    async def submit(
        self, job: Mapping[str, object] | Sequence[Mapping[str, object]], idempotency_key: str | None = None
    ) -> Answer:
        """Hand in a job, a grid or a list of jobs, in the fields of POST /v1/jobs; images may be bytes.

        Returns what that route returns. Called again with the same key, it returns what it has returned first.
        """
        with recorded("submit", self._observe):
            catalogue = self._pipeline.catalogue
            if isinstance(job, Mapping) and "grid" not in job:
                draft = draft_of(parse(JobRequest, job), catalogue, idempotency_key=idempotency_key)
                [handed_in] = await self._jobs.submit(self._pipeline, [draft])
                return await self._answer(handed_in)
            sent = job if isinstance(job, Mapping) else list(job)
            jobs = await self._jobs.submit(self._pipeline, batch_of(sent, catalogue, idempotency_key))
            batch = await batch_response(jobs, self._jobs, path_of)
            return batch.model_dump(mode="json", exclude_none=True)

    async def job(self, job_id: str) -> Answer:
        """Return what GET /v1/jobs/{id} returns; each image of a job that has succeeded has its bytes as `image`."""
        with recorded("job", self._observe):
            return await self._answer(await self._jobs.get(job_id))

    async def events(self, job_id: str, after: int = 0) -> AsyncGenerator[Answer]:
        """Yield every state of a job after the one with the number `after`, its latest progress, and then the job.

        Their `type` is state, progress or job, and None where nothing has happened for ten seconds.
        """
        with recorded("events", self._observe):
            async with aclosing(messages_of(JobId(job_id), after, self._jobs, path_of)) as messages:
                async for message in messages:
                    yield {"type": None} if message is None else dict(message)

    async def cancel(self, job_id: str) -> Answer:
        """Cancel a job and return it as it is then; one that runs stops within a step."""
        with recorded("cancel", self._observe):
            return await self._answer(await self._jobs.cancel(job_id))

    async def _answer(self, job: Job) -> Answer:
        answer = (await job_response(job, self._jobs, path_of)).model_dump(mode="json", exclude_none=True)
        if job.image_files:
            for image, name in zip(answer["result"]["data"], job.image_files, strict=True):
                image["image"] = await self._jobs.files.get(name)
        return answer
