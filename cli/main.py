"""The command `atelier`: a list of its commands."""

from __future__ import annotations

import typer

from cli import jobs, models
from cli.doctor import doctor
from cli.images import edit, generate, upscale

app = typer.Typer(no_args_is_help=True, add_completion=False, help="A client of an Atelier server.")
for command in (generate, edit, upscale, doctor):
    app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
