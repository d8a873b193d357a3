"""A job from its params to its outcome: the pipeline does the work, as it does for a direct request, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict, replace

from atelier.core.denoising import RequestId
from atelier.core.errors import AtelierError, NotSupported, ReplicaLost
from atelier.core.jobs import Job, Json, Progress
from atelier.core.params import AnnotateParams, DownloadParams, GenerateParams, UpscaleParams
from atelier.hub.hub import Hub
from atelier.imaging.inputs import image_size
from atelier.jobs.params import loaded
from atelier.pipeline.events import Planned, Preview, Step
from atelier.pipeline.pipeline import Pipeline
from atelier.pipeline.record import Observe, RequestRecord
from atelier.pipeline.results import ControlMap, Result
from atelier.pipeline.upscaling import UpscaledImage
from atelier.stores.blobs import BlobStore

#: Receives how far a job is.
Report = Callable[[Progress], None]


class Performer:
    """Does the work of jobs and stores their files."""

    def __init__(self, pipeline: Pipeline, blobs: BlobStore, observe: Observe, hub: Hub | None = None) -> None:
        """`observe` receives the record of every attempt when it has ended. Without a `hub` nothing is downloaded."""
        self._pipeline = pipeline
        self._blobs = blobs
        self._observe = observe
        self._hub = hub

    async def perform(self, job: Job, report: Report) -> Json:
        """Work on a job and return its outcome, in which files are named as `blobs` has them.

        Raises the errors of the pipeline and of the hub, NotFound if an input image is gone, and StoreUnavailable.
        """
        with self._recorded(job) as record:
            params = await loaded(job.operation, job.params, self._blobs)
            match params:
                case GenerateParams():
                    return await self._outcome(await self._generate(record, params, job.num_previews, report))
                case UpscaleParams():
                    upscaled = await self._pipeline.upscale(record, params)
                    return await self._upscaled(upscaled, params)
                case AnnotateParams():
                    return await self._drawn(await self._pipeline.annotate(record, params))
                case DownloadParams():
                    return await self._downloaded(params, report)
            raise TypeError(f"no operation takes {type(params).__name__}")

    async def _generate(
        self, record: RequestRecord, params: GenerateParams, num_previews: int, report: Report
    ) -> Result:
        reached = Progress(step=0, total=0, elapsed_s=0.0)
        stream = self._pipeline.stream(
            record, params, report_steps=True, are_steps_sparse=True, num_previews=num_previews
        )
        async with aclosing(stream) as events:
            async for event in events:
                match event:
                    case Planned():
                        total = sum(pass_.sampling.num_evaluations for pass_ in event.plan.passes)
                        reached = replace(reached, total=total)
                    case Step():
                        reached = replace(reached, step=event.step, elapsed_s=event.elapsed_s)
                        report(reached)
                    case Preview():
                        names = [await self._blobs.put(file, params.output_format) for file in event.files]
                        reached = replace(reached, previews=tuple(names))
                        report(reached)
                    case Result():
                        report(replace(reached, step=reached.total, elapsed_s=record.total_s))
                        return event
        raise ReplicaLost("The generation ended without a result.")

    async def _outcome(self, result: Result) -> Json:
        params = result.plan.params
        return {
            "images": [
                {
                    "file": await self._blobs.put(picture.data, params.output_format),
                    "seed": picture.seed,
                    "parameters": result.plan.parameters(picture.seed),
                }
                for picture in result.pictures
            ],
            "control_maps": [
                {"file": await self._blobs.put(one.data, "png"), "kind": one.kind} for one in result.control_maps
            ],
            "output_format": params.output_format,
            "size": str(result.plan.image_size),
            "upscaler": result.upscaler,
            "usage": asdict(result.usage),
            "exactness_key": result.exactness_key,
            "cached": result.is_cached,
        }

    async def _upscaled(self, upscaled: UpscaledImage, params: UpscaleParams) -> Json:
        return {
            "images": [{"file": await self._blobs.put(upscaled.data, params.output_format)}],
            "output_format": params.output_format,
            "size": str(upscaled.size),
            "upscaler": upscaled.upscaler,
        }

    async def _drawn(self, drawn: ControlMap) -> Json:
        return {
            "images": [{"file": await self._blobs.put(drawn.data, "png")}],
            "output_format": "png",
            "size": str(image_size(drawn.data, param="image")),
            "kind": drawn.kind,
        }

    async def _downloaded(self, params: DownloadParams, report: Report) -> Json:
        if self._hub is None:
            raise NotSupported("This server downloads no models.")
        installed = await self._hub.download(params, report)
        return {"installed": installed.model_dump(mode="json", exclude={"model"}, exclude_none=True)}

    @contextmanager
    def _recorded(self, job: Job) -> Iterator[RequestRecord]:
        # A job whose worker has died may be attempted while its last attempt still runs in a Denoiser.
        request_id = RequestId(f"{job.id}-{job.attempts}")
        record = RequestRecord(request_id=request_id, endpoint=f"job {job.operation}")
        try:
            yield record
            record.status = 200
        except AtelierError as error:
            record.status, record.code = error.status, error.code
            raise
        finally:
            self._observe(record)
