"""The command `atelier` in a process of its own, whose standard error is a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_WAIT_S = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Command:
    """A running command, its standard output in a pipe."""

    def __init__(self, process: subprocess.Popen[str], terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        #: What the terminal has shown so far.
        self.shown = ""
        self._is_shown = threading.Condition()
        # In a thread, because a command whose terminal nobody reads stops at its next line.
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def wait_until_shown(self, pattern: str) -> None:
        """Return when the terminal has shown the pattern."""
        with self._is_shown:
            found = self._is_shown.wait_for(lambda: re.search(pattern, self.shown), timeout=_WAIT_S)
        assert found, f"{pattern!r} is not in {self.shown!r}"

    def finish(self) -> tuple[int, str]:
        """Return the exit status and what is on standard output."""
        out, _ = self.process.communicate(timeout=_WAIT_S)
        return self.process.returncode, out

    def close(self) -> None:
        self.process.kill()
        self._reading.join()
        os.close(self._terminal)

    def _read(self) -> None:
        while True:
            try:
                text = os.read(self._terminal, 10_000).decode(errors="replace")
            except OSError:  # the command has ended
                return
            with self._is_shown:
                self.shown += _ESCAPES.sub("", text)
                self._is_shown.notify_all()


@contextmanager
def on_terminal(address: str, folder: Path, *arguments: str) -> Iterator[Command]:
    """Run a command whose standard error is a terminal."""
    reading, writing = pty.openpty()
    environment = {**os.environ, "ATELIER_SERVER": address, "PYTHONPATH": str(_ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        # Shells start background jobs, such as a run of these tests, with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        os.close(writing)
        command = Command(process, reading)
        try:
            yield command
        finally:
            command.close()
