"""LoRAs in the folder of a running graph."""

from __future__ import annotations

import time

import httpx2
import pytest
from ray import serve

from atelier.core.errors import LoraNotFound
from tests.integration.conftest import Graph
from tests.lora_files import write_lora

_WAIT_S = 10


def test_a_lora_that_is_put_into_the_folder_is_served_without_a_restart(deployed: Graph) -> None:
    address = deployed.address
    assert httpx2.get(f"{address}/v1/loras/dropped").json()["error"]["code"] == "lora_not_found"
    write_lora(deployed.loras_dir, "dropped", description="Put there while the graph runs.")
    (deployed.loras_dir / "old.ckpt").touch()
    start_s = time.monotonic()
    while (answer := httpx2.get(f"{address}/v1/loras/dropped")).status_code != 200:
        assert time.monotonic() - start_s < _WAIT_S
        time.sleep(0.1)
    assert answer.json()["description"] == "Put there while the graph runs."
    assert [one["file"] for one in httpx2.get(f"{address}/loras").json()["refused"]] == ["old.ckpt"]
    listed = serve.get_app_handle("atelier").models.remote().result(timeout_s=60)["loras"]
    assert "dropped" in [lora["id"] for lora in listed]


def test_an_unknown_lora_is_refused_by_handle_as_over_http(deployed: Graph) -> None:
    asked = {"prompt": "a circle <lora:nowhere:0.8>"}
    answer = httpx2.post(f"{deployed.address}/v1/images/generations", json=asked)
    with pytest.raises(LoraNotFound) as caught:
        serve.get_app_handle("atelier").generate.remote(asked).result(timeout_s=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "lora_not_found", "prompt")
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "lora_not_found", "prompt")
    assert caught.value.message == error["message"]
