"""Benchmark of the queue of jobs: how many a second are handed in, and claimed and ended, on each database.

`python -m benchmarks.jobs` hands in 2,000 jobs, which eight workers claim, one at a time, and end without working on
them, each in a process of its own. It checks that each job was done once. Postgres is measured where its programs are
found.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from atelier.core.jobs import JobId, NewJob, WorkerId
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from benchmarks.results import record
from tests.postgres import find_programs, postgres

_NUM_JOBS, _NUM_WORKERS = 2000, 8
_LEASE_S = 15.0


def main() -> None:
    numbers: dict[str, float | int] = {"jobs": _NUM_JOBS, "workers": _NUM_WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        numbers |= measured("SQLite", f"sqlite:///{Path(folder) / 'jobs.db'}")
    programs = find_programs()
    if programs is not None:
        with postgres(programs) as server:
            numbers |= measured("Postgres", server.new_database("jobs"))
    record("jobs", numbers)


def measured(name: str, url: str) -> dict[str, float | int]:
    """Return the numbers of a database. Raises AssertionError if a job was lost or done twice."""
    added_s = asyncio.run(_hand_in(url))
    with ProcessPoolExecutor(_NUM_WORKERS, mp_context=get_context("spawn")) as processes:
        # So that all processes are there before one begins.
        list(processes.map(time.sleep, [2.0] * _NUM_WORKERS))
        start_s = time.perf_counter()
        done = Counter(job_id for ids in processes.map(_work_alone, [url] * _NUM_WORKERS) for job_id in ids)
        ended_s = time.perf_counter() - start_s
    assert len(done) == _NUM_JOBS, f"{_NUM_JOBS - len(done)} jobs were lost"
    assert set(done.values()) == {1}, "a job was done twice"
    return {
        f"{name}: handed in one by one, jobs/s": round(_NUM_JOBS / added_s),
        f"{name}: claimed and ended, jobs/s": round(_NUM_JOBS / ended_s),
    }


async def _hand_in(url: str) -> float:
    """Make the tables and hand in the jobs. Returns the seconds that the jobs took."""
    database = Database(url)
    await database.migrate()
    jobs = Jobs(database)
    start_s = time.perf_counter()
    for index in range(_NUM_JOBS):
        await jobs.add([NewJob(operation="generate", params={"prompt": "a red circle", "seed": index}, work=1.0)])
    took_s = time.perf_counter() - start_s
    await database.close()
    return took_s


def _work_alone(url: str) -> list[JobId]:
    """Claim and end jobs until there are none. Returns those that this process has ended."""
    return asyncio.run(_work(url))


async def _work(url: str) -> list[JobId]:
    database, done = Database(url), list[JobId]()
    claims = Claims(database, WorkerId(f"worker {time.time_ns()}"), lease_s=_LEASE_S)
    while claimed := await claims.claim(1):
        for job in claimed:
            if await claims.succeed(job.id, {}):
                done.append(job.id)
    await database.close()
    return done


if __name__ == "__main__":
    main()
