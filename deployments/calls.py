"""Handle calls as the Router receives them: their params, their id and their record.

Params are a mapping of fields, or an object of `atelier.core.params`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from typing import TypeVar

from opentelemetry.propagate import get_global_textmap, set_global_textmap
from ray.serve._private.tracing_utils import get_trace_context, set_trace_context
from ray.serve._private.utils import generate_request_id
from ray.serve.context import _get_serve_request_context, _serve_request_context

from atelier.api.openai.schemas import ImagesGenerateRequest
from atelier.api.openai.translate import parse_openai
from atelier.core.denoising import RequestId
from atelier.core.errors import AtelierError, InvalidParameter, MalformedBody
from atelier.core.params import Params, parse
from atelier.pipeline.record import LEFT, Observe, RequestRecord
from deployments.tracing import ServeFirst

# Here, because every process of a Router imports this module before its first request.
set_global_textmap(ServeFirst([get_global_textmap()]))

#: What a caller sends.
Sent = Mapping[str, object] | Params

P = TypeVar("P", bound=Params)
A = TypeVar("A", bound=ImagesGenerateRequest)


def read_params(kind: type[P], sent: Sent) -> P:
    """Read params of our own operations. Raises InvalidRequest or NotSupported."""
    return parse(kind, _fields(sent))


def read_images_params(kind: type[A], sent: Sent) -> A:
    """Read params of a generation, an edit or a variation, named as in OpenAI's API.

    Raises InvalidParameter if a stream is asked for, and otherwise what `parse_openai` raises.
    """
    asked = parse_openai(kind, _fields(sent))
    if asked.stream:
        raise InvalidParameter("stream: call the Router's method `stream` instead.", param="stream")
    return asked


def read_stream_params(sent: Sent) -> ImagesGenerateRequest:
    """Read params of a generation that is streamed. Raises what `parse_openai` raises."""
    return parse_openai(ImagesGenerateRequest, {**_fields(sent), "stream": True})


@contextmanager
def recorded(method: str, observe: Observe) -> Iterator[RequestRecord]:
    """Give a call of the Router's method a record, and pass it to `observe` when the call has ended.

    The request's id is Serve's, which Serve's logs and the caller's response have, too. Raises AtelierErrors only,
    because a caller may not know the class of another error.
    """
    request_id = RequestId(_get_serve_request_context().request_id)
    record = RequestRecord(request_id=request_id, endpoint=f"handle {method}")
    try:
        yield record
        record.status = 200
    except asyncio.CancelledError:
        record.code = LEFT
        raise
    except Exception as error:
        failure = error if isinstance(error, AtelierError) else AtelierError()
        record.status, record.code = failure.status, failure.code
        if failure is error:
            raise
        raise failure from error
    finally:
        observe(record)


def detached_context() -> Context:
    """Return a context whose calls have the current request's id and trace, but are not cancelled with it."""
    current, trace, context = _get_serve_request_context(), get_trace_context(), Context()
    context.run(_serve_request_context.set, replace(current, _internal_request_id=generate_request_id()))
    if trace is not None:
        context.run(set_trace_context, trace)
    return context


def _fields(sent: Sent) -> Mapping[str, object]:
    """Return the fields that the caller has set."""
    if isinstance(sent, Params):
        return {name: getattr(sent, name) for name in sent.model_fields_set}
    if isinstance(sent, Mapping):
        return sent
    raise MalformedBody(f"params must be a mapping or an object of atelier.core.params; got {type(sent).__name__}.")
