"""The terminal for our own lines, and a file for what libraries print."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def output_in_file() -> Iterator[tuple[TextIO, Path]]:
    """Send what this process and its children print to a new file; yields the terminal and the file's path.

    Descriptors are replaced instead of `sys.stdout`, because libraries in C++ print, too.
    """
    descriptor, name = tempfile.mkstemp(prefix="atelier-", suffix=".log")
    terminal, errors = os.dup(1), os.dup(2)
    with os.fdopen(terminal, "w", buffering=1) as lines:
        try:
            _replace(descriptor, descriptor)
            yield lines, Path(name)
        finally:
            _replace(terminal, errors)
            os.close(descriptor)
            os.close(errors)


def _replace(output: int, errors: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(errors, 2)
