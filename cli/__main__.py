"""`python -m cli`: the command `atelier` in a clone of the repository."""

from __future__ import annotations

from cli.main import app

app(prog_name="atelier")
