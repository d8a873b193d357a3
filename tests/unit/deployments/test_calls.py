"""The params of handle calls."""

from __future__ import annotations

import asyncio
import base64
import contextvars

import pytest
from opentelemetry.context import attach
from opentelemetry.trace import NonRecordingSpan, SpanContext, get_current_span, set_span_in_context
from ray.serve.context import _RequestContext, _serve_request_context

from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.core.errors import AtelierError, InvalidParameter, InvalidRequest, MalformedBody
from atelier.core.params import (
    AnnotateParams,
    ControlParams,
    GenerateParams,
    HiresStep,
    LoraParams,
    UpscaleParams,
    UpscaleStep,
)
from atelier.pipeline.record import RequestRecord
from deployments.calls import detached_context, read_images_params, read_params, read_stream_params, recorded

_FILE = b"a file"


def test_params_are_read_from_a_mapping_and_from_an_object_alike() -> None:
    fields = {"image": _FILE, "kind": "canny", "low_threshold": 50}
    params = AnnotateParams(image=_FILE, kind="canny", low_threshold=50)
    assert read_params(AnnotateParams, fields) == read_params(AnnotateParams, params) == params


def test_every_field_of_an_object_is_read() -> None:
    params = GenerateParams(
        prompt="a star",
        n=2,
        size="64x64",
        seed=3,
        init_image=_FILE,
        strength=0.5,
        controls=(ControlParams(kind="canny", image=_FILE, annotate=True, low_threshold=50),),
        loras=(LoraParams(model="neon", weight=0.5), LoraParams(name="pastel")),
        hires=HiresStep(scale=1.5),
        upscale=UpscaleStep(scale=2),
        deadline_s=5.0,
    )
    read = read_images_params(ImagesGenerateRequest, params)
    assert {name: getattr(read, name) for name in GenerateParams.model_fields} == dict(params)


@pytest.mark.parametrize("image", [_FILE, [_FILE], base64.b64encode(_FILE).decode()])
def test_one_image_needs_no_list(image: object) -> None:
    fields = {"prompt": "a star", "image": image}
    assert read_images_params(ImagesEditRequest, fields).image == [_FILE]
    assert read_images_params(ImagesVariationRequest, fields).image == [_FILE]


def test_a_stream_has_a_method_of_its_own() -> None:
    with pytest.raises(InvalidParameter, match="`stream`") as caught:
        read_images_params(ImagesGenerateRequest, {"prompt": "a star", "stream": True})
    assert caught.value.param == "stream"
    asked = read_stream_params({"prompt": "a star", "partial_images": 2, "progress": True})
    assert (asked.partial_images, asked.progress) == (2, True)


@pytest.mark.parametrize("sent", ["a star", None, [("prompt", "a star")]])
def test_other_values_are_rejected(sent: object) -> None:
    with pytest.raises(MalformedBody, match=type(sent).__name__):
        read_params(GenerateParams, sent)  # type: ignore[arg-type]


def test_params_of_another_operation_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="image"):
        read_params(UpscaleParams, GenerateParams(prompt="a star"))


def test_a_call_that_succeeds_is_recorded() -> None:
    records: list[RequestRecord] = []
    with recorded("generate", records.append) as record:
        assert records == []
    assert records == [record]
    assert (record.endpoint, record.status, record.code) == ("handle generate", 200, None)


def test_an_error_of_ours_is_recorded_and_raised_as_it_is() -> None:
    records: list[RequestRecord] = []
    error = InvalidParameter("n: too many", param="n")
    with pytest.raises(InvalidParameter) as caught, recorded("generate", records.append):
        raise error
    assert caught.value is error
    assert [(record.status, record.code) for record in records] == [(400, "invalid_value")]


def test_another_exception_becomes_an_error_of_ours() -> None:
    records: list[RequestRecord] = []
    with pytest.raises(AtelierError) as caught, recorded("generate", records.append):
        raise ZeroDivisionError
    assert type(caught.value) is AtelierError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [(record.status, record.code) for record in records] == [(500, "internal_error")]


def test_a_cancelled_call_is_recorded_as_left_by_its_client() -> None:
    records: list[RequestRecord] = []
    with pytest.raises(asyncio.CancelledError), recorded("generate", records.append):
        raise asyncio.CancelledError
    assert [(record.status, record.code) for record in records] == [(499, "client_left")]


def test_a_detached_context_has_the_id_and_the_trace_but_is_not_cancelled_with_the_request() -> None:
    request = _RequestContext(request_id="req_1", _internal_request_id="internal_1", app_name="atelier")
    contextvars.Context().run(_check_detached, request)


def _check_detached(request: _RequestContext) -> None:
    _serve_request_context.set(request)
    span = NonRecordingSpan(SpanContext(trace_id=1, span_id=2, is_remote=False))
    attach(set_span_in_context(span))
    context = detached_context()
    detached = context[_serve_request_context]
    assert (detached.request_id, detached.app_name) == ("req_1", "atelier")
    assert detached._internal_request_id not in ("", "internal_1")
    assert context.run(get_current_span) is span
