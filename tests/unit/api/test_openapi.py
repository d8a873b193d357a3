"""The OpenAPI document is true: whatever it allows is answered as it says, and nothing it says is a 500."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.schemas import BaseSchema

from atelier.api.app import build_app
from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.pipeline import Pipeline
from atelier.stores.blobs import BlobStore
from tests.local_stages import LocalStages

_settings = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
#: Nearly every generation is too much work: what is tested is the door, not the house.
_MAX_PIXEL_STEPS = 64 * 64 * 2


@pytest.fixture(scope="module")
def document(
    local_stages: LocalStages, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BaseSchema]:
    pipeline = Pipeline(local_stages, catalogue, max_pixel_steps=_MAX_PIXEL_STEPS)
    blobs = BlobStore(tmp_path_factory.mktemp("blobs").as_uri(), ttl=timedelta(hours=1))
    app = build_app(pipeline, blobs, max_body_bytes=1_000_000)
    yield schemathesis.openapi.from_asgi("/openapi.json", app)


def test_the_document_is_true(document: BaseSchema, subtests: pytest.Subtests) -> None:
    for operation in (result.ok() for result in document.get_all_operations()):
        with subtests.test(operation.label):
            _check(operation)


def _check(operation: APIOperation) -> None:
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @_settings
    def allowed(case: Case) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @_settings
    def not_allowed(case: Case) -> None:
        case.call_and_validate()

    allowed()
    not_allowed()
