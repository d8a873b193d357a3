"""`atelier jobs`: the server's jobs as a table, and one job watched, shown or cancelled."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console

from cli import options
from cli.answers import Job, JobResult
from cli.bar import duration, reached
from cli.destination import Destination
from cli.failures import Failure
from cli.running import watch_job, with_server
from cli.server import Server
from cli.tables import print_facts, print_table

app = typer.Typer(invoke_without_command=True)

_HEADINGS = ("ID", "OPERATION", "STATE", "PRIORITY", "HANDED IN", "PROGRESS")
_TIME = "%Y-%m-%d %H:%M:%S"


@app.callback()
def list_jobs(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    operation: Annotated[list[str] | None, typer.Option(help="Only this operation; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Largest number of jobs.")] = 20,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """List the latest jobs, or watch, show or cancel one."""
    if context.invoked_subcommand is not None:
        return

    async def listed(connected: Server, _: Console) -> None:
        jobs = await connected.jobs(states=state or (), operations=operation or (), limit=limit)
        print_table(_HEADINGS, map(_row, jobs))

    with_server(server, listed)


@app.command()
def watch(
    job_id: options.JobId,
    output: options.Output = None,
    force: options.Force = False,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Show a job's progress until it ends; with --output, save its images."""
    destination = None if output is None else Destination(path=output, replaces=force, subject=job_id)
    if destination is not None:
        destination.check()
    with_server(server, lambda connected, console: watch_job(connected, console, job_id, destination))


@app.command()
def show(job_id: options.JobId, server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """Print what is known of a job."""
    job = with_server(server, lambda connected, _: connected.job(job_id))
    urls = [image.url for image in job.result.data] if isinstance(job.result, JobResult) else []
    print_facts(
        {
            "id": job.id,
            "operation": job.operation,
            "state": job.state,
            "priority": job.priority,
            "handed in": _time(job.created_at),
            "started": _time(job.started_at),
            "ended": _time(job.finished_at),
            "attempts": job.attempts,
            "progress": _progress(job) or None,
            "error": None if job.error is None else job.error.message,
            **{f"image {number}": url for number, url in enumerate(urls, start=1)},
        }
    )


@app.command()
def cancel(job_id: options.JobId, server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """Cancel a job; one that runs stops within a step."""

    async def cancelled(connected: Server, _: Console) -> None:
        job = await connected.cancel(job_id)
        if job.state in ("succeeded", "failed"):
            raise Failure(f"{job_id} has {job.state} already.")

    with_server(server, cancelled)


def _row(job: Job) -> tuple[str, ...]:
    ago = f"{duration(time.time() - job.created_at)} ago"
    return job.id, job.operation, job.state, job.priority, ago, _progress(job)


def _progress(job: Job) -> str:
    left = [] if job.eta_s is None else [f"{duration(job.eta_s)} left"]
    if job.position is not None:
        return ", ".join([f"{job.position} before it", *left])
    return "" if job.progress is None else ", ".join([reached(job.progress), *left])


def _time(at: float | None) -> str | None:
    return None if at is None else time.strftime(_TIME, time.localtime(at))
