"""What ends a command early. The message is printed, and the command exits with 1.

Failure
├── Unreachable  no server listens at the address
└── Lost         a connection broke, or the server cannot answer now; the same request may succeed later
"""

from __future__ import annotations


class Failure(Exception):
    """A command cannot be done; the message says why and, if something can be done, what."""


class Unreachable(Failure):
    """No server listens at the address."""

    def __init__(self, address: str, reason: object) -> None:
        super().__init__(
            f"No server can be reached at {address} ({reason}).\n"
            "Start one with `make run`, or name another one with --server or ATELIER_SERVER."
        )


class Lost(Failure):
    """A connection broke, or the server cannot answer now; the same request may succeed later."""
