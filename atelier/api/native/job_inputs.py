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
    errors_naming_images,
    generate_params,
    parse_openai,
    variation_params,
)
from atelier.catalogue.catalogue import Catalogue
from atelier.core.errors import AtelierError, InvalidParameter
from atelier.core.jobs import ImageOperation, Json
from atelier.core.params import AnnotateParams, Params, UpscaleParams, parse
from atelier.jobs.service import Draft


def read_input(
    operation: ImageOperation, fields: Mapping[str, object], catalogue: Catalogue
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


def draft_of(
    asked: JobRequest,
    catalogue: Catalogue,
    *,
    place: str = "",
    idempotency_key: str | None = None,
    batch: str | None = None,
    cell: Json | None = None,
) -> Draft:
    """Return a job as it is handed in; `place` says where the client has sent it, such as `[2].`.

    Raises what the operation's own route raises.
    """
    with _errors_naming(f"{place}input.", {}):
        params, sent_as = read_input(asked.operation, asked.input, catalogue)
    # Images in handle calls may be bytes.
    sent = json.dumps(asked.model_dump(), sort_keys=True, default=lambda data: hashlib.sha256(data).hexdigest())
    return Draft(
        operation=asked.operation,
        params=params,
        rank=asked.rank,
        delay_s=asked.delay_s,
        num_previews=asked.previews,
        idempotency_key=idempotency_key,
        fingerprint=hashlib.sha256(sent.encode()).hexdigest(),
        batch=batch,
        cell=cell,
        webhook=asked.webhook,
        place=place,
        naming=lambda: _errors_naming(f"{place}input.", sent_as),
    )


@contextmanager
def _errors_naming(place: str, sent_as: Mapping[str, str]) -> Iterator[None]:
    """Name fields in errors as they are in the body, such as `input.size`."""
    try:
        with errors_naming_images(sent_as):
            yield
    except AtelierError as error:
        if error.param is not None:
            error.param = f"{place}{error.param}"
        raise


def _refuse_streams(asked: ImagesGenerateRequest) -> None:
    if asked.stream:
        raise InvalidParameter("stream: a job is watched at its events_url.", param="stream")
