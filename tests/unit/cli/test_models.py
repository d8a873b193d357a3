"""`atelier models search`, `download`, `installed` and `remove`, against a hub on the loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage
from atelier.hub.hub import Hub
from atelier.pipeline.pipeline import Pipeline
from tests.hub import Hub as ModelHub
from tests.hub import hub
from tests.unit.cli.conftest import Atelier, RunningServer, serving
from tests.unit.cli.stages import SteppedStages

_LORA = Path(__file__).parents[3] / "zoo/weights/tiny-neon/tiny-neon.safetensors"


@pytest.fixture
def model_hub(tmp_path: Path) -> Iterator[ModelHub]:
    root = tmp_path / "published"
    for name in ("neon", "pickles"):
        (root / "me" / name).mkdir(parents=True)
    shutil.copy(_LORA, root / "me/neon")
    (root / "me/pickles/lora.bin").write_bytes(b"a pickle")
    with hub(root) as running:
        running.cards = {
            "me/neon": {"tags": ["lora"], "cardData": {"license": "mit"}, "downloads": 7},
            "me/pickles": {"tags": ["lora"], "cardData": {"license": "mit"}, "downloads": 5},
        }
        yield running


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(models_dir=tmp_path / "models")


@pytest.fixture
def server(
    stages: SteppedStages, pipeline: Pipeline, tmp_path: Path, storage: Storage, model_hub: ModelHub
) -> Iterator[RunningServer]:
    own_hub = Hub(storage, storage.loras_dir, endpoint=model_hub.address)
    with serving(stages, pipeline, tmp_path, model_hub=own_hub) as server:
        yield server


def _rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_a_search_lists_what_can_be_downloaded_and_why_something_cannot(atelier: Atelier) -> None:
    heading, neon, pickles = _rows(atelier("models", "search").stdout)
    assert heading == ["NAME", "KIND", "SIZE", "DOWNLOADS", "LICENCE"]
    assert neon == ["me/neon", "lora", f"{_LORA.stat().st_size / 1e6:.1f}", "MB", "7", "mit"]
    assert pickles[:4] == ["me/pickles", "lora", "5", "mit"]
    assert "safetensors;" in pickles
    assert len(_rows(atelier("models", "search", "neon", "--kind", "lora").stdout)) == 2


def test_a_download_asks_for_the_licence_and_prints_the_id(atelier: Atelier, model_hub: ModelHub) -> None:
    ran = atelier("models", "download", "me/neon", answer="y\n")
    assert (ran.exit_code, ran.stdout) == (0, "me--neon\n")
    assert f"me/neon is under the licence mit: {model_hub.address}/me/neon" in ran.stderr
    _, row = _rows(atelier("models", "installed").stdout)
    assert row[:2] == ["me--neon", "lora"]
    _, job = _rows(atelier("jobs").stdout)
    assert job[1:3] == ["download", "succeeded"]
    assert " of " in " ".join(job)


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_without_consent_nothing_is_downloaded(
    atelier: Atelier, server: RunningServer, model_hub: ModelHub, answer: str
) -> None:
    ran = atelier("models", "download", "me/neon", answer=answer)
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert server.jobs() == []
    assert model_hub.sent == []


def test_a_licence_that_is_given_is_not_asked_for(atelier: Atelier) -> None:
    ran = atelier("models", "download", "me/neon", "--accept-licence", "mit")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "me--neon\n", "")


def test_another_licence_is_refused_with_the_right_one(atelier: Atelier) -> None:
    ran = atelier("models", "download", "me/neon", "--accept-licence", "apache-2.0")
    assert ran.exit_code == 1
    assert "the licence of 'me/neon' is 'mit'" in ran.stderr


def test_a_removed_lora_is_not_listed(atelier: Atelier, storage: Storage) -> None:
    atelier("models", "download", "me/neon", "--accept-licence", "mit")
    ran = atelier("models", "remove", "me--neon")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert len(_rows(atelier("models", "installed").stdout)) == 1
    assert list(storage.loras_dir.iterdir()) == []
    assert atelier("models", "remove", "me--neon").exit_code == 1


def test_a_repository_that_is_not_there_is_said_so(atelier: Atelier) -> None:
    ran = atelier("models", "download", "me/none")
    assert (ran.exit_code, ran.stderr) == (1, "The model hub has no repository me/none.\n")


def test_offline_mode_is_said_at_once(atelier: Atelier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ran = atelier("models", "search")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "HF_HUB_OFFLINE" in ran.stderr
    assert "again" not in ran.stderr


def test_what_the_server_offers_is_still_listed(atelier: Atelier) -> None:
    assert _rows(atelier("models").stdout)[0] == ["ID", "KIND", "DESCRIPTION", "LICENCE"]
