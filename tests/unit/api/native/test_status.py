from __future__ import annotations

import httpx2

from atelier.core.params import GenerateParams
from tests.stages import RecordingStages


async def test_health_is_that_of_the_router(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    stages.is_ready = False
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_graph_is_ready_when_every_stage_answers(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_graph_that_is_not_ready_answers_503(http: httpx2.AsyncClient, stages: RecordingStages) -> None:
    stages.is_ready = False
    answer = await http.get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})


async def test_metrics_are_those_of_the_stages_in_prometheus_format(
    http: httpx2.AsyncClient, stages: RecordingStages
) -> None:
    answer = await http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == await stages.metrics_text()
    assert "atelier_denoiser_steps_total" in answer.text


async def test_the_front_page_describes_what_the_server_can_do(http: httpx2.AsyncClient) -> None:
    capabilities = (await http.get("/")).json()
    assert capabilities["name"] == "Atelier"
    assert capabilities["models"] == [
        {
            "id": "small-sdxl",
            "description": "SDXL's architecture with random weights",
            "licence": "Apache-2.0",
            "default_size": "64x64",
            "min_side_px": 32,
            "max_side_px": 256,
            "num_inference_steps": 4,
            "guidance_scale": 5.0,
            "family": "sdxl",
            "capabilities": {
                "text_to_image": True,
                "image_to_image": True,
                "inpaint": True,
                "control": True,
                "lora": False,
                "edit": False,
                "previews": True,
            },
        }
    ]
    assert [(one["id"], one["kind"], one["base"], one["scale"]) for one in capabilities["controlnets"]] == [
        ("small-canny", "canny", "small-sdxl", 0.8),
        ("small-depth", "depth", "small-sdxl", 0.8),
    ]
    assert [(one["id"], one["has_weights"]) for one in capabilities["upscalers"]] == [("tiny-x4", True)]
    assert capabilities["loras"] == []
    assert capabilities["output_formats"] == ["png", "jpeg", "webp"]
    assert capabilities["documentation"] == "/docs"


async def test_the_front_page_lists_the_fields_and_what_is_not_built(http: httpx2.AsyncClient) -> None:
    capabilities = (await http.get("/")).json()
    assert set(GenerateParams.model_fields) | {"quality", "style"} <= set(capabilities["parameters"])
    assert {"POST /magic-prompt", "GET /api/rate-limit/stats"} <= set(capabilities["not_supported"])
    assert "POST /generate" not in capabilities["not_supported"]
