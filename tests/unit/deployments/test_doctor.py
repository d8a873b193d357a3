"""The report on a config's graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE
from atelier.models import files
from deployments import doctor
from deployments.run_config import read_config
from tests.lora_files import write_lora

_ROOT = Path(__file__).parents[3]


def _run(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["doctor", str(config)])
    status = doctor.main()
    return status, *capsys.readouterr()


def test_a_graph_that_can_start_is_described(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_BLOBS_URL", "s3://images")
    monkeypatch.setenv("ATELIER_DATABASE_URL", "postgresql://atelier:secret@host/jobs")
    status, out, err = _run(_ROOT / "serve_config.yaml", capsys, monkeypatch)
    folder = _ROOT / "zoo" / "weights" / "tiny-sdxl"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert (status, err) == (0, "")
    lines = [line.strip() for line in out.splitlines()]
    [model] = [line for line in lines if "Model 'tiny-sdxl'" in line]
    assert model.endswith(f" MB in {folder}")
    assert float(model.split(": ")[1].split(" MB")[0]) == pytest.approx(size / 1e6, rel=0.05)
    assert any(line.startswith("Preview decoder of 'tiny-sdxl': 0.1 MB in ") for line in lines)
    assert "1 × Denoiser: 0.4 CPU, float32 on cpu" in lines
    assert any(line.startswith("images") and "s3://images, shared by all Routers" in line for line in lines)
    [jobs] = [line for line in lines if line.startswith("jobs")]
    assert jobs.endswith("postgresql://atelier:***@host/jobs, shared by all nodes, for 7 days, 0:00:00")
    assert lines[-1] == "Nothing is missing."


def test_a_wrong_database_is_said_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_DATABASE_URL", "mysql://host/jobs")
    status, _, err = _run(_ROOT / "serve_config.yaml", capsys, monkeypatch)
    assert (status, err.startswith("ATELIER_DATABASE_URL is not supported; set sqlite:")) == (1, True)


def test_the_needs_of_a_config_are_those_that_it_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "snapshot_download", lambda *_, **__: str(_ROOT))
    out = doctor.report(read_config(_ROOT / "configs" / "sdxl-80gb.yaml"))
    lines = [line.strip() for line in out.splitlines()]
    assert "1 to 8 × Denoiser: 2.0 CPU, 0.6 GPU, bfloat16 on cuda" in lines
    assert "2 × Router: 1.0 CPU" in lines


def test_what_is_missing_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["upscalers"] = ["RealESRGAN_x4plus"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("ATELIER_MODELS_DIR", str(tmp_path))
    status, out, err = _run(tmp_path / "config.yaml", capsys, monkeypatch)
    assert status == 1
    assert "Upscaler 'RealESRGAN_x4plus': not on this machine" in out
    assert "Nothing is missing" not in out
    assert f"the file {tmp_path}/upscalers/RealESRGAN_x4plus.safetensors does not exist. Convert" in err


def test_loras_are_listed_with_what_is_refused_and_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_lora(tmp_path / "loras", "neon")
    (tmp_path / "loras" / "old.pt").touch()
    entry = "\nloras:\n  - {id: mine, description: A LoRA., licence: MIT, file: mine.safetensors}\n"
    catalogue = tmp_path / "catalogue.yaml"
    # The zoo's folder is relative to the catalogue.
    shipped = DEFAULT_CATALOGUE.read_text().partition("\nloras:")[0]
    catalogue.write_text(shipped.replace("../../zoo", str(_ROOT / "zoo")) + entry)
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    arguments = {"catalogue": str(catalogue), "loras": ["mine"], "loras_dir": str(tmp_path / "loras")}
    config["applications"][0]["args"] = arguments
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    status, out, err = _run(tmp_path / "config.yaml", capsys, monkeypatch)
    lines = [line.strip() for line in out.splitlines()]
    assert f"LoRA 'neon': 0.0 MB in {tmp_path / 'loras' / 'neon.safetensors'}" in lines
    assert "LoRA file 'old.pt' is not served: only safetensors files are served; a pickle may run code" in lines
    assert status == 1
    file = tmp_path / "mine.safetensors"
    assert err == f"LoRA 'mine': the file {file} does not exist. Put it there, or correct `file` in the catalogue.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"model": "tiny-sdxl"}, "model: Extra inputs"), ({"models": ["other"]}, "Unknown model")],
)
def test_a_wrong_argument_is_explained(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: dict[str, object],
    message: str,
) -> None:
    config = yaml.safe_load((_ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"] = arguments
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    status, _, err = _run(tmp_path / "config.yaml", capsys, monkeypatch)
    assert status == 1
    assert message in err


@pytest.mark.slow
def test_the_report_is_printed_by_its_module() -> None:
    command = [sys.executable, "-m", "deployments.doctor", "serve_config.yaml"]
    printed = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.endswith("Nothing is missing.\n")
