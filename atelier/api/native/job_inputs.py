"""The input of a job, in the fields of the operation's own route, as params of the pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atelier.api.native.job_schemas import JobRequest
from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.api.openai.translate import (
    edit_params,
    generate_params,
    parse_openai,
    variation_params,
)
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import AtelierError, InvalidParameter
from atelier.core.jobs import Operation
from atelier.core.params import AnnotateParams, Params, UpscaleParams, parse


def read_input(
    operation: Operation, fields: Mapping[str, object], catalogue: Catalogue
) -> tuple[Params, Mapping[str, str]]:
    """Return the params of an operation, and the client's names of its images by ours where they differ.

    Raises what its route raises, and InvalidParameter for a stream.
    """
    match operation:
        case "generate":
            generation = parse_openai(ImagesGenerateRequest, fields)
            _refuse_streams(generation)
            return generate_params(generation, catalogue), {}
        case "edit":
            edit = parse_openai(ImagesEditRequest, fields)
            _refuse_streams(edit)
            return edit_params(edit, catalogue), edit.sent_as
        case "variation":
            variation = parse_openai(ImagesVariationRequest, fields)
            _refuse_streams(variation)
            return variation_params(variation, catalogue), variation.sent_as
        case "upscale":
            return parse(UpscaleParams, fields), {}
        case "annotate":
            return parse(AnnotateParams, fields), {}


@contextmanager
def errors_in_input() -> Iterator[None]:
    """Name the fields of the input in errors as they are in the body, such as `input.size`."""
    try:
        yield
    except AtelierError as error:
        if error.param is not None:
            error.param = f"input.{error.param}"
        raise


def fingerprint_of(request: JobRequest) -> str:
    """Return a hash of what a client has sent."""
    return hashlib.sha256(json.dumps(request.model_dump(), sort_keys=True).encode()).hexdigest()


def _refuse_streams(asked: ImagesGenerateRequest) -> None:
    if asked.stream:
        raise InvalidParameter("stream: a job is watched at its events_url.", param="stream")
