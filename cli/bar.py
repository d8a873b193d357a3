"""The progress of a job as a bar on standard error, if that is a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from atelier.core.jobs import Progress


class Bar:
    """A bar that is on the terminal within its context."""

    def __init__(self, console: Console) -> None:
        self.is_shown = console.is_terminal
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}")
        self._bar = RichProgress(*columns, console=console, transient=True, disable=not self.is_shown)
        self._task = self._bar.add_task("handing in", total=None, figures="")

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def wait(self, position: int | None, eta_s: float | None) -> None:
        """Show that the job is queued, with the number of jobs before it and the seconds until it has ended."""
        figures = [*([] if position is None else [f"{position} before it"]), *_left(eta_s)]
        self._bar.reset(self._task, total=None, description="queued", figures=", ".join(figures))

    def run(self, progress: Progress | None) -> None:
        """Show a running job; `progress` is None while nothing is known."""
        if progress is None or not (progress.step or progress.transfer):
            self._bar.reset(self._task, total=None, description="running", figures="")
            return
        transfer = progress.transfer
        done, total = (
            (progress.step, progress.total) if transfer is None else (transfer.done_bytes, transfer.total_bytes)
        )
        figures = [reached(progress), f"{duration(progress.elapsed_s)} gone", *_left(progress.eta_s)]
        self._bar.update(self._task, total=total, completed=done, description="running", figures=", ".join(figures))


def reached(progress: Progress) -> str:
    """Return the number of steps, or of bytes with their speed, that are done."""
    transfer = progress.transfer
    if transfer is None:
        return f"{progress.step}/{progress.total} steps"
    speed = "" if transfer.bytes_per_s is None else f" at {size(transfer.bytes_per_s)}/s"
    return f"{size(transfer.done_bytes)} of {size(transfer.total_bytes)}{speed}"


def size(num_bytes: float) -> str:
    """Return a number of bytes in MB or GB."""
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that leaves two digits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _left(eta_s: float | None) -> list[str]:
    return [] if eta_s is None else [f"{duration(eta_s)} left"]
