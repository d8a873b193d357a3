"""`atelier models` and `atelier doctor`, and what the command imports."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import Catalogue
from atelier.pipeline.pipeline import Pipeline, PipelineLimits
from tests.unit.cli.conftest import Atelier, RunningServer, serving
from tests.unit.cli.stages import SteppedStages

_ROOT = Path(__file__).parents[3]


def test_models_are_listed_with_what_they_are(atelier: Atelier) -> None:
    ran = atelier("models")
    rows = {line.split()[0]: line for line in ran.stdout.splitlines()[1:]}
    assert list(rows) == ["small-sdxl", "small-canny", "small-depth", "tiny-x4"]
    assert "model, 64x64, 4 steps" in rows["small-sdxl"]
    assert "ControlNet canny of small-sdxl" in rows["small-canny"]
    assert "upscaler" in rows["tiny-x4"]
    assert "Apache-2.0" in rows["small-sdxl"]


def test_a_server_without_problems_has_none(atelier: Atelier, server: RunningServer) -> None:
    ran = atelier("doctor")
    assert (ran.exit_code, ran.stdout) == (0, f"Nothing is wrong with {server.address}.\n")


def test_a_server_that_is_not_ready_is_explained(atelier: Atelier, server: RunningServer) -> None:
    server.stages.is_ready = False
    ran = atelier("doctor")
    assert (ran.exit_code, ran.stdout.count("\n")) == (1, 1)
    assert "Not every deployment answers" in ran.stdout
    assert "serve status" in ran.stdout


def test_what_a_server_lacks_is_named(stages: SteppedStages, small_catalogue: Catalogue, tmp_path: Path) -> None:
    [upscaler] = small_catalogue.upscalers
    missing = upscaler.model_copy(update={"file": tmp_path / "none.safetensors"})
    catalogue = small_catalogue.model_copy(update={"upscalers": (missing,)})
    pipeline = Pipeline(stages, catalogue, PipelineLimits(max_pixel_steps=1_000_000))
    with serving(stages, pipeline, tmp_path, takes_jobs=False) as server:
        ran = Atelier(server.address)("doctor")
    first, second = ran.stdout.splitlines()
    assert ran.exit_code == 1
    assert first.startswith("The upscaler tiny-x4 has no weights on the server")
    assert second.startswith("This server takes no jobs")


def test_another_program_at_the_address_is_recognised(atelier: Atelier, tmp_path: Path) -> None:
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{other.server_port}"
        examined = atelier("doctor", "--server", address)
        (tmp_path / "index.html").write_text("hello")
        listed = atelier("models", "--server", address)
        other.shutdown()
        thread.join()
    assert (examined.exit_code, listed.exit_code) == (1, 1)
    assert "it is not Atelier" in examined.stdout
    assert "answers, but not as Atelier does" in listed.stderr


def test_a_config_is_examined_on_this_machine(atelier: Atelier) -> None:
    ran = atelier("doctor", str(_ROOT / "serve_config.yaml"))
    assert (ran.exit_code, ran.stdout.splitlines()[-1]) == (0, "Nothing is missing.")
    wrong = atelier("doctor", "none.yaml")
    assert (wrong.exit_code, "Cannot read the config none.yaml" in wrong.stderr) == (1, True)


def test_a_config_without_the_server_installed_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deployments.doctor", None)
    ran = Atelier("http://127.0.0.1:9")("doctor", "serve_config.yaml")
    assert (ran.exit_code, "pip install 'atelier[serve]'" in ran.stderr) == (1, True)


def test_the_command_starts_without_heavy_libraries() -> None:
    code = "import sys, cli.main; print({'torch', 'ray', 'diffusers', 'fastapi', 'PIL'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout == "set()\n"
