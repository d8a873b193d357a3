"""Failures in a row: a model that fails again and again is lost, and so is the replica that holds it."""

from __future__ import annotations

from atelier.core.errors import AtelierError, GenerationFailed, ReplicaLost

#: Number of failures in a row after which the models are taken to be lost, such as after an error of the GPU that
#: no later call recovers from.
_MAX_FAILURES = 3
#: Errors that one request's values can cause, however often it is sent.
_OF_THE_REQUEST = (AtelierError, ArithmeticError, LookupError, TypeError, ValueError)


class Failures:
    """Counts the failures of a replica's models since their last success."""

    def __init__(self) -> None:
        self._num = 0

    def succeeded(self) -> None:
        """Forget the failures before."""
        self._num = 0

    def failed(self, error: Exception, *, what: str) -> AtelierError:
        """Count a failure of `what`, and return the error for its client.

        An AtelierError is returned as it is. Any other error becomes GenerationFailed, or ReplicaLost, which clients
        and Routers may retry, from the third failure in a row on. Errors that the request itself can cause do not
        count.
        """
        if isinstance(error, AtelierError):
            return error
        if not isinstance(error, _OF_THE_REQUEST):
            self.count()
            if self._num >= _MAX_FAILURES:
                return ReplicaLost(f"{what} failed like {self._num - 1} before it: {error}")
        return GenerationFailed(f"{what} failed: {error}")

    def count(self) -> None:
        """Count a failure that no request caused."""
        self._num += 1

    def check(self) -> None:
        """Raise RuntimeError if the models are taken to be lost."""
        if self._num >= _MAX_FAILURES:
            raise RuntimeError(f"the last {self._num} model calls have failed")
