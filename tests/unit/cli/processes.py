"""The command `atelier` in a process of its own, whose standard error may be a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_WAIT_S = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Command:
    """A running command, its standard output in a pipe."""

    process: subprocess.Popen[str]
    #: File descriptor from which its terminal is read.
    terminal: int
    shown: str = field(default="")

    def wait_until_shown(self, pattern: str) -> None:
        """Read the terminal until it has shown the pattern."""
        end = time.monotonic() + _WAIT_S
        while not re.search(pattern, self.shown):
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern!r} is not in {self.shown!r}"
            try:
                self.shown += _ESCAPES.sub("", os.read(self.terminal, 10_000).decode())
            except OSError:  # the terminal's other end is closed
                raise AssertionError(f"{pattern!r} is not in {self.shown!r}") from None

    def finish(self) -> tuple[int, str]:
        """Return the exit status and what is on standard output."""
        out, _ = self.process.communicate(timeout=_WAIT_S)
        return self.process.returncode, out


@contextmanager
def on_terminal(address: str, folder: Path, *arguments: str) -> Iterator[Command]:
    """Run a command whose standard error is a terminal."""
    reading, writing = pty.openpty()
    environment = {**os.environ, "ATELIER_SERVER": address, "PYTHONPATH": str(_ROOT), "TERM": "xterm"}
    command = [sys.executable, "-m", "cli", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=writing, text=True
    ) as process:
        os.close(writing)
        try:
            yield Command(process, reading)
        finally:
            process.kill()
            os.close(reading)
