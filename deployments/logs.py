"""Our log lines in Serve's log files: with their own level, in the config's encoding, with the request's id.

Without this they would reach the files as output to stderr: every line by itself, at INFO.
"""

from __future__ import annotations

import logging

_OURS = ("atelier", "deployments")
_SERVE = "ray.serve"


class _ToServe(logging.Handler):
    """Passes records to Serve's logger, whose level and handlers its `logging_config` sets at any time."""

    def emit(self, record: logging.LogRecord) -> None:
        serve = logging.getLogger(_SERVE)
        if serve.isEnabledFor(record.levelno):
            serve.handle(record)


def log_to_serve() -> None:
    """Send the lines of this process's loggers to Serve's log of this replica; called in its constructor."""
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers = [_ToServe()]
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
