"""`atelier models`: what the server offers, and what it can download from the model hub."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from cli import options
from cli.answers import Capabilities, DownloadResult, HubModel, Installed, Offered
from cli.bar import size
from cli.failures import Failure
from cli.running import done, with_server
from cli.server import Server
from cli.tables import print_table

app = typer.Typer(invoke_without_command=True)

_HEADINGS = ("ID", "KIND", "DESCRIPTION", "LICENCE")
_FOUND_HEADINGS = ("NAME", "KIND", "SIZE", "DOWNLOADS", "LICENCE", "")
_INSTALLED_HEADINGS = ("ID", "KIND", "SIZE", "LICENCE", "REVISION", "INSTALLED")

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Id of a repository of the model hub.")]
Kind = Annotated[str | None, typer.Option(help="model or lora.")]


@app.callback()
def list_models(context: typer.Context, server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """List the server's models, LoRAs, ControlNets and upscalers, or find, download and remove some."""
    if context.invoked_subcommand is None:
        offered = with_server(server, lambda connected, _: connected.capabilities())
        print_table(_HEADINGS, [(one.id, kind, one.description, one.licence) for kind, one in _kinds(offered)])


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="Words in the id of a repository.")] = "",
    kind: Annotated[str | None, typer.Option(help="model, lora or controlnet.")] = None,
    base: Annotated[str | None, typer.Option(help="Id of the model that it must be made from.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="Largest number of repositories.")] = 10,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Search the model hub, the most downloaded repositories first."""
    found = with_server(server, lambda connected, _: connected.search_hub(words, kind=kind, base=base, limit=limit))
    print_table(_FOUND_HEADINGS, map(_row, found))


@app.command()
def download(
    repository: Repository,
    file: Annotated[str | None, typer.Option(help="The LoRA's or checkpoint's file, if there are several.")] = None,
    kind: Kind = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; main by default.")] = None,
    accept_licence: Annotated[
        str | None, typer.Option(metavar="ID", help="Accept this licence; without it the command asks.")
    ] = None,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Download a model or LoRA to the server. Prints the id by which requests name it."""

    fields = {
        "repository": repository,
        "file": file,
        "kind": kind,
        "revision": revision,
        "accept_licence": accept_licence or _accepted(server, repository),
    }

    async def downloaded(connected: Server, console: Console) -> None:
        job = await done(connected, console, connected.download(fields, uuid.uuid4().hex))
        assert isinstance(job.result, DownloadResult), "a download that has succeeded has installed something"
        typer.echo(job.result.installed.id)

    with_server(server, downloaded)


@app.command()
def installed(server: options.ServerAddress = options.DEFAULT_SERVER) -> None:
    """List what was downloaded from the model hub."""
    found = with_server(server, lambda connected, _: connected.installed())
    print_table(_INSTALLED_HEADINGS, map(_installed_row, found))


@app.command()
def remove(
    entry_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a model or LoRA that was downloaded.")],
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Remove a model or LoRA that was downloaded, with its files."""
    with_server(server, lambda connected, _: connected.remove(entry_id))


def _accepted(address: str, repository: str) -> str:
    """Show the licence of a repository, and return its id if the user accepts it. Raises Exit with 1."""

    async def described(connected: Server, _: Console) -> HubModel:
        found = await connected.search_hub(repository, limit=1)
        if not found or found[0].name != repository:
            raise Failure(f"The model hub has no repository {repository}.")
        return found[0]

    # The question is asked outside the event loop, which would keep Ctrl-C from the terminal.
    offer = with_server(address, described)
    typer.echo(f"{repository} is under the licence {offer.licence}: {offer.licence_link}", err=True)
    typer.echo("Do you accept it? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("Nothing was downloaded.", err=True)
        raise typer.Exit(1)
    return offer.licence


def _row(found: HubModel) -> tuple[str, ...]:
    note = "installed" if found.is_installed else found.reason or ""
    num_bytes = "" if found.num_bytes is None else size(found.num_bytes)
    return found.name, found.kind or "", num_bytes, str(found.downloads), found.licence, note


def _installed_row(one: Installed) -> tuple[str, ...]:
    day = time.strftime("%Y-%m-%d", time.localtime(one.installed_at))
    return one.id, one.kind, size(one.num_bytes), one.licence, one.revision[:8], day


def _kinds(offered: Capabilities) -> Iterator[tuple[str, Offered]]:
    for model in offered.models:
        yield f"model, {model.default_size}, {model.num_inference_steps} steps", model
    for lora in offered.loras:
        yield f"LoRA of {', '.join(lora.models)}", lora
    for controlnet in offered.controlnets:
        yield f"ControlNet {controlnet.kind} of {controlnet.base}", controlnet
    for upscaler in offered.upscalers:
        yield "upscaler" if upscaler.has_weights else "upscaler without weights", upscaler
