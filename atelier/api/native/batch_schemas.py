"""Requests and answers of batches of jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from atelier.api.native.job_schemas import JobRequest, JobResponse
from atelier.core.jobs import JobState
from atelier.core.params import Params
from atelier.core.params.parsing import MAX_NAME_CHARS, at_most

#: Number of jobs of a batch at most.
MAX_JOBS = 100
_AXES = ("x", "y", "z")


class Axis(Params):
    """One axis of a grid: a field of the input, and the values that it takes."""

    field: str = Field(min_length=1, max_length=MAX_NAME_CHARS, description="Name of a field of the input.")
    values: Annotated[list[object], at_most(MAX_JOBS), Field(min_length=1, max_length=MAX_JOBS)]


class Grid(Params):
    """The axes of a grid: columns, rows and pages of its contact sheet."""

    x: Axis | None = Field(None, description="The columns.")
    y: Axis | None = Field(None, description="The rows.")
    z: Axis | None = Field(None, description="The pages, one below the other.")

    @property
    def axes(self) -> dict[str, Axis]:
        """The axes that are given, by name."""
        axes = {name: getattr(self, name) for name in _AXES}
        return {name: axis for name, axis in axes.items() if axis is not None}

    @model_validator(mode="after")
    def _is_a_grid(self) -> Grid:
        names = [axis.field for axis in self.axes.values()]
        if not names:
            raise PydanticCustomError("no_axis", "grid: needs x, y or z", {"param": "grid"})
        if len(set(names)) < len(names):
            raise PydanticCustomError("same_field", "grid: each axis needs a field of its own", {"param": "grid"})
        return self


class GridRequest(JobRequest):
    """POST /v1/jobs with a grid"""

    grid: Grid = Field(description="Fields of the input that vary. Every combination of their values becomes a job.")


class Batch(BaseModel):
    """Jobs that were handed in together."""

    id: str
    object: Literal["batch"] = "batch"
    states: dict[JobState, int] = Field(description="Number of its jobs in each state that any of them is in.")
    jobs: list[JobResponse]
    status_url: str
    sheet_url: str = Field(description="Address of the contact sheet, on which all images are.")
