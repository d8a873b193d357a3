"""Handle calls as the Router receives them: their params and their id.

Params are a mapping of fields, or an object of `atelier.core.params`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ray.serve.context import _get_serve_request_context

from atelier.api.openai.schemas import ImagesGenerateRequest
from atelier.api.openai.translate import parse_openai
from atelier.core.denoising import RequestId
from atelier.core.errors import InvalidParameter, MalformedBody
from atelier.core.params import Params, parse

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


def call_id() -> RequestId:
    """Return Serve's id of the current call, which Serve's logs and the caller's response have, too."""
    return RequestId(_get_serve_request_context().request_id)


def _fields(sent: Sent) -> Mapping[str, object]:
    """Return the fields that the caller has set."""
    if isinstance(sent, Params):
        return {name: getattr(sent, name) for name in sent.model_fields_set}
    if isinstance(sent, Mapping):
        return sent
    raise MalformedBody(f"params must be a mapping or an object of atelier.core.params; got {type(sent).__name__}.")
