"""Jobs as commands run them: handed in, watched, saved, and cancelled by Ctrl-C."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TypeVar

import typer
from rich.console import Console

from cli.answers import Job, JobResult
from cli.bar import Bar
from cli.destination import Destination
from cli.failures import Failure, Lost
from cli.server import Server, connected
from cli.watching import watch

_Result = TypeVar("_Result")


def with_server(address: str, work: Callable[[Server, Console], Awaitable[_Result]]) -> _Result:
    """Do work that needs the server, and a console on standard error. Raises Exit with 1 if it fails."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    async def run() -> _Result:
        async with connected(address, console.print) as server:
            return await work(server, console)

    try:
        return asyncio.run(run())
    except Failure as failure:
        console.print(str(failure))
        raise typer.Exit(1) from None


async def run_job(
    server: Server,
    console: Console,
    operation: str,
    fields: Mapping[str, object],
    destination: Destination,
) -> None:
    """Hand in a job, watch and save it. Cancels it if this is cancelled."""
    await save(server, await done(server, console, hand_in(server, operation, fields)), destination)


async def done(server: Server, console: Console, handed_in: Coroutine[None, None, Job]) -> Job:
    """Watch a job that is being handed in until it has succeeded. Cancels it if this is cancelled."""
    handing_in = asyncio.create_task(handed_in)
    try:
        with Bar(console) as bar:
            job = await asyncio.shield(handing_in)
            return await _watched(server, job.id, bar)
    except asyncio.CancelledError:
        # The job may have been made although its answer is still on its way.
        job = await handing_in
        await server.cancel(job.id)
        console.print(f"Cancelled {job.id}.")
        raise


async def hand_in(server: Server, operation: str, fields: Mapping[str, object]) -> Job:
    """Hand in a job, once however often the connection breaks."""
    return await server.hand_in(operation, fields, uuid.uuid4().hex)


async def watch_job(server: Server, console: Console, job_id: str, destination: Destination | None) -> None:
    """Watch a job that was handed in before, and save it if there is a destination."""
    try:
        with Bar(console) as bar:
            ended = await _watched(server, job_id, bar)
    except asyncio.CancelledError:
        console.print(f"{job_id} goes on; `atelier jobs cancel {job_id}` cancels it.")
        raise
    if destination is not None:
        await save(server, ended, destination)


async def save(server: Server, job: Job, destination: Destination) -> None:
    """Save the images of a job, and print their paths. Raises Failure if it makes none."""
    if not isinstance(job.result, JobResult):
        raise Failure(f"{job.id} makes no images.")
    try:
        for image in job.result.data:
            data = await server.file(job.id, image.name)
            typer.echo(destination.save(image, job.result, data))
    except Failure as failure:
        raise Failure(f"{failure}\n`atelier jobs watch {job.id} -o .` saves the images again.") from None


async def _watched(server: Server, job_id: str, bar: Bar) -> Job:
    """Return a job when it has succeeded. Raises Failure if it ends otherwise."""
    try:
        ended = await watch(server, job_id, bar)
    except Lost as lost:
        raise Failure(
            f"{lost}\n{job_id} is done anyway; `atelier jobs watch {job_id} -o .` saves its images."
        ) from None
    if ended.error is not None:
        raise Failure(ended.error.message)
    if ended.state == "cancelled":
        raise Failure(f"{job_id} was cancelled.")
    return ended
