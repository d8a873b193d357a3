"""`atelier doctor`: what is wrong with a server, or with a config on this machine, and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli import options
from cli.failures import Failure
from cli.running import with_server
from cli.server import Server

Config = Annotated[
    Path | None,
    typer.Argument(metavar="[CONFIG]", help="A Serve config, such as serve_config.yaml, to check on this machine."),
]


def doctor(config: Config = None, server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """Say what is wrong with the server or, with CONFIG, with a graph on this machine, and what to do."""
    has_problems = with_server(server, _report) if config is None else _examine(config)
    if has_problems:
        raise typer.Exit(1)


async def _report(server: Server, _: Console) -> bool:
    """Print the problems of a server; returns whether there are any."""
    problems = [problem async for problem in _problems(server)]
    typer.echo("\n".join(problems or [f"Nothing is wrong with {server.address}."]))
    return bool(problems)


async def _problems(server: Server) -> AsyncIterator[str]:
    health = await server.status("/health")
    if health != 200:
        yield (
            f"A server answers at {server.address}, but GET /health has status {health}: it is not Atelier, or the "
            "graph is not deployed. `serve status` lists what is; --server names another address."
        )
        return
    if await server.status("/ready") != 200:
        yield (
            "Not every deployment answers. For a minute after a start or an update that is normal; later "
            "`serve status` names the deployment, and its log says why it does not start."
        )
    try:
        offered = await server.capabilities()
        for upscaler in offered.upscalers:
            if not upscaler.has_weights:
                yield (
                    f"The upscaler {upscaler.id} has no weights on the server: images are resized bicubically. "
                    "`atelier doctor CONFIG` there says which file is missing."
                )
        await server.jobs(states=(), operations=(), limit=1)
    except Failure as failure:
        yield str(failure)


def _examine(config: Path) -> bool:
    """Run the graph's own doctor, which needs Ray; returns whether something is missing."""
    try:
        from deployments.doctor import examine
    except ModuleNotFoundError as error:
        typer.echo(f"Checking a config needs the server: pip install 'atelier[serve]' ({error}).", err=True)
        return True
    return examine(config) != 0
