"""Tables and lists of facts on standard output. In a pipe they are as wide as their content: nothing is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import typer
from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 10_000


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings."""
    table = Table(*headings, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table, width=None if console.is_terminal else _PIPE_WIDTH)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names with what is known of them; facts that are None are left out."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    width = max(map(len, known))
    for name, fact in known.items():
        typer.echo(f"{name:{width}}  {fact}")
