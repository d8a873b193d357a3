"""The jobs of a grid: every combination of the values of its axes, and its place on the contact sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product

from atelier.api.native.batch_schemas import MAX_JOBS, Axis, GridRequest
from atelier.api.native.job_schemas import JobRequest
from atelier.core.errors import InvalidParameter
from atelier.imaging.sheet import Cell

_MAX_LABEL_CHARS = 60


def cells_of_grid(asked: GridRequest) -> list[tuple[JobRequest, Cell]]:
    """Return a job for each combination, column by column, row by row, page by page.

    Raises InvalidParameter if there are more than `MAX_JOBS`.
    """
    axes = asked.grid.axes
    num_jobs = math.prod(len(axis.values) for axis in axes.values())
    if num_jobs > MAX_JOBS:
        raise InvalidParameter(f"grid: makes at most {MAX_JOBS} jobs; this one has {num_jobs}.", param="grid")
    return [(_job(asked, values), cell) for values, cell in _combinations(axes)]


def cells_of_list(jobs: list[JobRequest]) -> list[tuple[JobRequest, Cell]]:
    """Return the jobs of a list, with places in a sheet that is about as wide as high."""
    num_columns = math.ceil(math.sqrt(len(jobs)))
    return [
        (job, Cell(column=index % num_columns, row=index // num_columns, page=0)) for index, job in enumerate(jobs)
    ]


def _combinations(axes: Mapping[str, Axis]) -> Iterator[tuple[Mapping[str, object], Cell]]:
    places = [list(enumerate(axes[name].values)) if name in axes else [(0, None)] for name in ("z", "y", "x")]
    for (page, z), (row, y), (column, x) in product(*places):
        chosen = {axes[name].field: value for name, value in (("x", x), ("y", y), ("z", z)) if name in axes}
        yield (
            chosen,
            Cell(
                column=column,
                row=row,
                page=page,
                column_label=_label(axes.get("x"), x),
                row_label=_label(axes.get("y"), y),
                page_label=_label(axes.get("z"), z),
            ),
        )


def _job(asked: GridRequest, values: Mapping[str, object]) -> JobRequest:
    fields = {name: getattr(asked, name) for name in JobRequest.model_fields}
    return JobRequest.model_construct(**{**fields, "input": {**asked.input, **values}})


def _label(axis: Axis | None, value: object) -> str:
    if axis is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    label = f"{axis.field}: {text}"
    return label if len(label) <= _MAX_LABEL_CHARS else f"{label[: _MAX_LABEL_CHARS - 1]}…"
