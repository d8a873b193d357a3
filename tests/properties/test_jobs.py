"""The queue of jobs against a model of it: whatever is done in whatever order, both know the same.

No job is lost or done twice, and jobs are claimed in the order in which they are due, so that none starves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from atelier.core.errors import GenerationFailed
from atelier.core.jobs import JobId, NewJob, WorkerId
from atelier.core.priority import PRIORITIES
from atelier.stores.claims import Claims
from atelier.stores.database import Database
from atelier.stores.jobs import Jobs
from tests.databases import DATABASES, new_url
from tests.postgres import Postgres

_LEASE_S = 15.0
_WORKERS = ("one", "two", "three")
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class _Job:
    """What the model knows of a job."""

    id: JobId
    due_at: float
    run_after: float
    deadline_at: float | None
    state: str = "queued"
    worker: str | None = None
    lease_until: float = 0.0
    attempts: int = 0
    deaths: int = 0
    is_cancel_requested: bool = False
    num_successes: int = 0


class _QueueMachine(RuleBasedStateMachine):
    """Hands in, claims and ends jobs, with a clock that hypothesis moves."""

    url: ClassVar[Callable[[], str]]
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._now = 1000.0
        self._model: dict[JobId, _Job] = {}
        self._database = Database(type(self).url())
        self._run(self._database.migrate())
        self._jobs = Jobs(self._database, clock=lambda: self._now)
        self._workers = {
            name: Claims(self._database, WorkerId(name), lease_s=_LEASE_S, clock=lambda: self._now)
            for name in _WORKERS
        }

    def teardown(self) -> None:
        self._run(self._database.close())
        self._runner.close()

    def _run(self, call: Any) -> Any:
        return self._runner.run(call)

    @rule(
        target=jobs,
        priority=st.sampled_from(list(PRIORITIES)),
        rank=st.integers(-2, 2),
        deadline_s=st.none() | st.floats(1, 100),
        delay_s=st.sampled_from([0.0, 20.0]),
    )
    def hand_in(self, priority: str, rank: int, deadline_s: float | None, delay_s: float) -> JobId:
        new = NewJob(operation="generate", params={}, work=1.0, priority=priority, rank=rank)
        [job] = self._run(self._jobs.add([replace(new, deadline_s=deadline_s, delay_s=delay_s)]))
        patience_s = {"interactive": 10, "standard": 60, "batch": 3600}[priority]
        limit_s = patience_s if deadline_s is None else min(patience_s, deadline_s)
        self._model[job.id] = _Job(
            id=job.id,
            due_at=self._now + delay_s + limit_s - 60 * rank,
            run_after=self._now + delay_s,
            deadline_at=None if deadline_s is None else self._now + deadline_s,
        )
        job_id: JobId = job.id
        return job_id

    @rule(worker=st.sampled_from(_WORKERS), max_jobs=st.integers(1, 3))
    def claim(self, worker: str, max_jobs: int) -> None:
        news = self._run(self._workers[worker].news())
        mine = {job_id for job_id, job in self._model.items() if job.worker == worker and job.is_cancel_requested}
        claimed = self._run(self._workers[worker].claim(max_jobs))
        ready = [job for job in self._model.values() if job.state == "queued" and job.run_after <= self._now]
        assert (news.is_any_ready, news.to_cancel) == (bool(ready), mine)
        expected = sorted(ready, key=lambda job: (job.due_at, job.id))[:max_jobs]
        assert [job.id for job in claimed] == [job.id for job in expected]
        for job in expected:
            job.state, job.worker, job.lease_until = "running", worker, self._now + _LEASE_S
            job.attempts += 1

    @rule(worker=st.sampled_from(_WORKERS), job_id=jobs)
    def keep(self, worker: str, job_id: JobId) -> None:
        kept, job = self._run(self._workers[worker].keep({job_id: None})), self._model[job_id]
        assert kept == ({job_id} if job.worker == worker else set())
        if job.worker == worker:
            job.lease_until = self._now + _LEASE_S

    @rule(
        worker=st.sampled_from(_WORKERS),
        job_id=jobs,
        end=st.sampled_from(["succeed", "succeed", "fail", "give_back", "cancelled"]),
    )
    def end(self, worker: str, job_id: JobId, end: str) -> None:
        job, claims = self._model[job_id], self._workers[worker]
        call: Mapping[str, Callable[[], Awaitable[bool]]] = {
            "succeed": lambda: claims.succeed(job_id, {}),
            "fail": lambda: claims.fail(job_id, GenerationFailed()),
            "give_back": lambda: claims.give_back(job_id, delay_s=5.0),
            "cancelled": lambda: claims.cancelled(job_id),
        }
        assert self._run(call[end]()) == (job.worker == worker)
        if job.worker == worker:
            state = {"succeed": "succeeded", "fail": "failed", "give_back": "queued", "cancelled": "cancelled"}
            job.state, job.worker = state[end], None
            job.num_successes += end == "succeed"
            if end == "give_back":
                job.run_after = self._now + 5.0

    @rule(job_id=jobs)
    def cancel(self, job_id: JobId) -> None:
        self._run(self._jobs.cancel(job_id))
        job = self._model[job_id]
        if job.state == "queued":
            job.state = "cancelled"
        elif job.state == "running":
            job.is_cancel_requested = True

    @rule(seconds=st.sampled_from([1.0, 6.0, 16.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self._now += seconds
        self._run(self._workers["one"].expire())
        for job in self._model.values():
            if job.state == "running" and job.lease_until < self._now:
                job.worker, job.deaths = None, job.deaths + 1
                job.state = "cancelled" if job.is_cancel_requested else "failed" if job.deaths == 2 else "queued"
            if job.state == "queued" and job.deadline_at is not None and job.deadline_at < self._now:
                job.state = "failed"

    @invariant()
    def both_know_the_same(self) -> None:
        found = {job.id: job for job in self._run(self._jobs.get_all(list(self._model)))}
        assert found.keys() == self._model.keys()
        for job_id, job in self._model.items():
            known = found[job_id]
            assert (known.state, known.attempts, known.deaths) == (job.state, job.attempts, job.deaths)
            assert (known.finished_at is not None) == (job.state in _ENDED)
            assert job.num_successes == (job.state == "succeeded")


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", DATABASES)
def test_the_queue_does_what_its_model_does(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database_kind: str
) -> None:
    class Machine(_QueueMachine):
        url = staticmethod(lambda: new_url(database_kind, tmp_path_factory, server))

    def server() -> Postgres:
        found: Postgres = request.getfixturevalue("postgres_server")
        return found

    run_state_machine_as_test(
        Machine,
        settings=settings(
            deadline=None, max_examples=15, stateful_step_count=40, suppress_health_check=list(HealthCheck)
        ),
    )
