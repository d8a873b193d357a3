from __future__ import annotations

import httpx2
import pytest

_UNBUILT = [
    ("POST", "/generate", "Jobs"),
    ("GET", "/status/job_1", "Jobs"),
    ("GET", "/image/job_1", "Jobs"),
    ("GET", "/models", "The list of models"),
    ("GET", "/loras", "LoRA"),
    ("GET", "/gpu/status", "GPU status"),
    ("POST", "/magic-prompt", "Prompt improvement"),
    ("GET", "/api/cache/stats", "The result cache"),
    ("POST", "/api/cache/clear", "The result cache"),
    ("GET", "/api/rate-limit/stats", "Rate limits"),
    ("GET", "/api/services/status", "Service status"),
    ("GET", "/api/system/info", "System information"),
]


@pytest.mark.parametrize(("method", "path", "what"), _UNBUILT)
async def test_a_route_that_is_not_built_answers_501(
    http: httpx2.AsyncClient, method: str, path: str, what: str
) -> None:
    response = await http.request(method, path)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (501, "not_supported_error")
    assert error["message"].startswith(what)
    assert response.headers["x-should-retry"] == "false"
