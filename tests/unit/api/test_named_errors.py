"""Every error that a field causes names the field, in OpenAI's shape, on every route."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import httpx2
import pytest

from atelier.api.native.schemas import EnhanceParams
from atelier.api.openai.schemas import ImagesEditRequest, ImagesGenerateRequest, ImagesVariationRequest
from atelier.core.errors import GenerationFailed
from atelier.core.params import AnnotateParams, InspectParams, Params, UpscaleParams
from tests.pictures import encoded, noise
from tests.stages import RecordingStages

_IMAGE = base64.b64encode(encoded(noise(32, 32))).decode()
_QUICK = {"num_inference_steps": 2, "seed": 3}

#: Each route that reads a body, with its fields and a valid request.
_ROUTES: Mapping[str, tuple[type[Params], Mapping[str, object]]] = {
    "/v1/images/generations": (ImagesGenerateRequest, {"prompt": "x", "size": "64x64", **_QUICK}),
    "/v1/images/edits": (ImagesEditRequest, {"prompt": "x", "image": _IMAGE, **_QUICK}),
    "/v1/images/variations": (ImagesVariationRequest, {"image": _IMAGE, **_QUICK}),
    "/v1/images/annotate": (AnnotateParams, {"image": _IMAGE, "kind": "canny"}),
    "/v1/images/upscale": (UpscaleParams, {"image": _IMAGE, "scale": 1}),
    "/v1/images/inspect": (InspectParams, {"image": _IMAGE}),
    "/enhance-media": (EnhanceParams, {"image": _IMAGE, "scale": 1}),
}
_WRONG = [True, -1, 1e300, "", "é" * 300, [], [[]], {"x": 1}, [{}]]
_IMAGES = {"init_image", "mask_image", "markup_image"}
_SHARED = ImagesGenerateRequest.model_fields.keys() - _IMAGES
_CASES = [
    (path, name)
    for path, (kind, _) in _ROUTES.items()
    for name in [*kind.model_fields, "zoom"]
    if kind is ImagesGenerateRequest or name not in _SHARED
]


@pytest.mark.parametrize(("path", "name"), _CASES)
async def test_a_wrong_value_is_named(
    http: httpx2.AsyncClient, stages: RecordingStages, path: str, name: str
) -> None:
    # Values that are accepted end here, so that no model runs.
    stages.failures = {
        stage: GenerationFailed() for stage in ("encode_texts", "encode_latents", "annotate", "upscale")
    }
    for value in _WRONG:
        answer = await http.post(path, json={**_ROUTES[path][1], name: value})
        if answer.status_code in (200, 500):
            assert stages.calls or path.endswith("inspect")
            continue
        error = answer.json()["error"]
        assert answer.status_code in (400, 404, 501), answer.text
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["param"] or "").startswith(name), (value, error)
