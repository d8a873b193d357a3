"""A job from its first event to its last, across broken connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from pydantic import TypeAdapter

from atelier.core.jobs import JobState, Progress
from cli.answers import Job, StateChange
from cli.bar import Bar
from cli.failures import Failure, Lost
from cli.server import Server

#: Seconds between two questions for the place in the queue, which no event tells.
_LOOK_S = 1.0
_PROGRESS = TypeAdapter(Progress)


async def watch(server: Server, job_id: str, bar: Bar) -> Job:
    """Show a job until it has ended, and return it as it is then. Raises Failure if the server stays away."""
    looking: asyncio.Task[None] | None = None
    try:
        async with aclosing(_news(server, job_id)) as news:
            async for one in news:
                if isinstance(one, Job):
                    return one
                if looking is not None:
                    looking.cancel()
                if one == "queued":
                    looking = asyncio.create_task(_show_place(server, job_id, bar))
                elif isinstance(one, Progress):
                    bar.run(one)
                elif one == "running":
                    bar.run(None)
    finally:
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
    raise AssertionError("the news of a job end with the job")


async def _show_place(server: Server, job_id: str, bar: Bar) -> None:
    """Show the place of a queued job until cancelled."""
    while bar.is_shown:
        # What is wrong with the server is reported by the stream of events.
        with suppress(Failure):
            job = await server.job(job_id)
            bar.wait(job.position, job.eta_s)
        await asyncio.sleep(_LOOK_S)


async def _news(server: Server, job_id: str) -> AsyncGenerator[JobState | Progress | Job]:
    """Yield every state of a job once, its progress, and the whole job when it has ended."""
    after, patience = 0, server.patience()
    while True:
        try:
            async with aclosing(server.events(job_id, after=after)) as events:
                async for event in events:
                    patience.renew()
                    match event.event:
                        case "state":
                            after = int(event.id)
                            yield StateChange.model_validate_json(event.data).state
                        case "progress":
                            yield _PROGRESS.validate_json(event.data)
                        case "job":
                            yield Job.model_validate_json(event.data)
                            return
            lost = Lost(f"{server.address} has ended the stream of events too early.")
        except Lost as error:
            lost = error
        await patience.pause(lost)
