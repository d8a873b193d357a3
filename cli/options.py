"""Options that several commands have. Their ranges and defaults are the server's, so it checks them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import httpx2
import typer

from atelier.core.params.delivery import OutputFormat
from atelier.core.priority import Priority
from atelier.core.sampling import SamplerName

DEFAULT_SERVER = "http://127.0.0.1:8000"
_FORMATS: Mapping[str, OutputFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


def _checked_address(address: str) -> str:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL as error:
        raise typer.BadParameter(f"{address} is no address: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"{address} is no address such as {DEFAULT_SERVER}")
    return address


ServerAddress = Annotated[
    str,
    typer.Option("--server", envvar="ATELIER_SERVER", callback=_checked_address, help="Address of the server."),
]
InputImage = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A PNG, JPEG or WebP file.")
]
Prompt = Annotated[str, typer.Argument(help="What the image shows.")]
Model = Annotated[str | None, typer.Option(help="Id of a model; the server's first one by default.")]
Size = Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Size in pixels; the model's by default.")]
Steps = Annotated[int | None, typer.Option(help="Number of denoising steps; the model's by default.")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance; the model's by default.")]
ImageGuidance = Annotated[
    float | None,
    typer.Option(help="How closely an edit by an instruction keeps to the image; only for models that edit so."),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the first image; by default one is drawn.")]
Number = Annotated[int | None, typer.Option("--n", help="Number of images; 1 by default.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What the image does not show.")]
Loras = Annotated[list[str] | None, typer.Option("--lora", metavar="NAME[:WEIGHT]", help="A LoRA; may be repeated.")]
Sampler = Annotated[SamplerName | None, typer.Option(help="Sampling method.", show_default=False)]
Exact = Annotated[bool, typer.Option("--exact", help="The same bits for equal requests; slower.")]
Format = Annotated[
    OutputFormat | None, typer.Option("--format", help="Format of the files; by default that of --output, or png.")
]
JobPriority = Annotated[Priority | None, typer.Option("--priority", help="Who goes first.")]
Strength = Annotated[float | None, typer.Option(help="How far to depart from the image: 0.8 by default.")]
Mask = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, readable=True, help="Image that is transparent or white where to paint."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="PATH", help="File or folder; by default a name that says what it is."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Detach = Annotated[bool, typer.Option("--detach", help="Hand in the job and print its id.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of a job, such as job_0c1d….")]


def format_of(given: OutputFormat | None, output: Path | None) -> OutputFormat | None:
    """Return the format that was given, or that of the file to write; None leaves it to the server."""
    return given or (None if output is None else _FORMATS.get(output.suffix.lower()))


def loras_of(given: list[str] | None) -> list[dict[str, object]] | None:
    """Return LoRAs with their weights, from NAME or NAME:WEIGHT."""
    return [_lora(one) for one in given] if given else None


def _lora(given: str) -> dict[str, object]:
    name, colon, weight = given.rpartition(":")
    if not colon:
        return {"model": given}
    try:
        return {"model": name, "weight": float(weight)}
    except ValueError:
        raise typer.BadParameter(f"{weight!r} is no number", param_hint="--lora NAME:WEIGHT") from None
