"""`atelier generate`, `edit` and `upscale`: each hands in a job and saves what it makes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.destination import Destination
from cli.options import format_of, loras_of
from cli.running import hand_in, run_job, with_server


def generate(
    prompt: options.Prompt,
    model: options.Model = None,
    size: options.Size = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    number: options.Number = None,
    negative_prompt: options.NegativePrompt = None,
    lora: options.Loras = None,
    sampler: options.Sampler = None,
    exact: options.Exact = False,
    format_: options.Format = None,
    priority: options.JobPriority = None,
    output: options.Output = None,
    force: options.Force = False,
    detach: options.Detach = False,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Make images from a prompt. Prints the path of each on standard output."""
    fields = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "n": number,
        "negative_prompt": negative_prompt,
        "loras": loras_of(lora),
        "sampler": sampler,
        "reproducibility": "exact" if exact else None,
        "output_format": format_of(format_, output),
        "priority": priority,
    }
    destination = Destination(path=output, replaces=force, subject="generate")
    _run(server, "generate", fields, destination, detach=detach)


def edit(
    image: options.InputImage,
    prompt: options.Prompt,
    mask: options.Mask = None,
    strength: options.Strength = None,
    image_guidance: options.ImageGuidance = None,
    model: options.Model = None,
    size: options.Size = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    number: options.Number = None,
    negative_prompt: options.NegativePrompt = None,
    lora: options.Loras = None,
    sampler: options.Sampler = None,
    exact: options.Exact = False,
    format_: options.Format = None,
    priority: options.JobPriority = None,
    output: options.Output = None,
    force: options.Force = False,
    detach: options.Detach = False,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Paint an image anew by a prompt, inside a mask or everywhere, or edit it by an instruction."""
    fields = {
        "image": _base64(image),
        "prompt": prompt,
        "mask": None if mask is None else _base64(mask),
        "strength": strength,
        "image_guidance_scale": image_guidance,
        "model": model,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
        "n": number,
        "negative_prompt": negative_prompt,
        "loras": loras_of(lora),
        "sampler": sampler,
        "reproducibility": "exact" if exact else None,
        "output_format": format_of(format_, output),
        "priority": priority,
    }
    destination = Destination(path=output, replaces=force, subject=image.stem)
    _run(server, "edit", fields, destination, detach=detach)


def upscale(
    image: options.InputImage,
    scale: Annotated[float | None, typer.Option(help="Factor of width and height; 4 by default.")] = None,
    model: Annotated[str | None, typer.Option(help="Id of an upscaler; the server's first one by default.")] = None,
    format_: options.Format = None,
    output: options.Output = None,
    force: options.Force = False,
    detach: options.Detach = False,
    server: options.ServerAddress = options.DEFAULT_SERVER,
) -> None:
    """Enlarge an image up to four times."""
    fields = {
        "image": _base64(image),
        "scale": scale,
        "model": model,
        "output_format": format_of(format_, output),
    }
    destination = Destination(path=output, replaces=force, subject=image.stem)
    _run(server, "upscale", fields, destination, detach=detach)


def _run(
    server: str, operation: str, fields: Mapping[str, object], destination: Destination, *, detach: bool
) -> None:
    """Run a job with the fields that were given, or only hand it in."""
    given = {name: value for name, value in fields.items() if value is not None}
    if detach:
        if destination.path is not None:
            raise typer.BadParameter("--detach saves nothing; `atelier jobs watch ID -o PATH` does.")
        typer.echo(with_server(server, lambda connected, _: hand_in(connected, operation, given)).id)
        return
    destination.check()
    with_server(server, lambda connected, console: run_job(connected, console, operation, given, destination))


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode("ascii")
