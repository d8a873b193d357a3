"""Errors of handle calls, which a caller reads with or without `atelier` installed.

Pickle names the class of an error, and a process that lacks the class gets Ray's UnserializableException instead. So
an error is sent as its fields, with the function that makes an exception of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ray.util import register_serializer

from atelier.core.errors import AtelierError


def send_errors_as_fields() -> None:
    """Let Ray send AtelierErrors from this process as `message`, `status`, `type`, `code`, `param` and so on.

    They arrive as the same class or, in a process without `atelier`, as a RuntimeError; all have these attributes.
    """
    receive = _receiver()
    for kind in _tree(AtelierError):
        register_serializer(kind, serializer=_sent, deserializer=receive)


def _sent(error: AtelierError) -> tuple[str, dict[str, object]]:
    """Return the name of an error's class, and the attributes of the error."""
    kind = type(error)
    of_class = {"status": kind.status, "type": kind.type, "code": kind.code, "is_retryable": kind.is_retryable}
    when = {"retry_after_s": error.retry_after_s} if error.is_retryable else {}
    return kind.__name__, {"message": str(error), **of_class, **when, **vars(error)}


def _receiver() -> Callable[[tuple[str, dict[str, object]]], Exception]:
    def receive(sent: tuple[str, dict[str, object]]) -> Exception:
        name, fields = sent
        message = str(fields["message"])
        error: Exception
        try:
            from atelier.core import errors
        except ImportError:
            error = RuntimeError(message)
        else:
            error = getattr(errors, name, errors.AtelierError)(message)
        vars(error).update(fields)
        return error

    # A function that is no attribute of a module is pickled by value.
    return receive


def _tree(kind: type[AtelierError]) -> Iterator[type[AtelierError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)
