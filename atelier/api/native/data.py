"""The route that deletes what the server keeps of a caller."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from atelier.api.errors import ERRORS
from atelier.api.services import UsedJobs

router = APIRouter(tags=["Atelier"])


class DeletedData(BaseModel):
    """What was deleted."""

    jobs: int = Field(description="Number of jobs.")
    files: int = Field(description="Number of images that were sent with them or made by them.")


@router.delete("/v1/data", responses=ERRORS)
async def delete_data(service: UsedJobs) -> DeletedData:
    """Delete all jobs of the caller, with their images. Those that run are stopped."""
    deleted = await service.delete_all("")
    return DeletedData(jobs=deleted.jobs, files=deleted.files)
