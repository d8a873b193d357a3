"""`python -m atelier.models.fetch` against a hub on the loopback: what it downloads, and what it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.storage import Storage
from tests.hub import COMMIT, Hub, hub
from tests.single_file import write_single_file
from tests.small_models import CPU

pytestmark = pytest.mark.slow  # programs that import huggingface_hub

_ROOT = Path(__file__).parents[3]
_WAIT_S = 60
#: What the small model needs of its repository, in half precision and with a VAE of its own.
_NEEDED = {
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    *(f"text_encoder{number}/{name}" for number in ("", "_2") for name in ("config.json", "model.fp16.safetensors")),
    *(f"tokenizer{number}/{name}" for number in ("", "_2") for name in ("tokenizer.json", "tokenizer_config.json")),
}
_VAE = {"config.json", "diffusion_pytorch_model.safetensors"}

_CATALOGUE = f"""models:
  - id: small
    description: A model.
    owned_by: me
    created: 2026-01-02
    licence: MIT
    files: {{repository: me/small, revision: {COMMIT}, variant: fp16}}
    vae: {{repository: me/vae}}
    preview_decoder: {{repository: me/tiny}}
    sides_px: {{min: 32, max: 128}}
    defaults: {{size: 64x64, num_inference_steps: 4, guidance_scale: 4}}
controlnets:
  - {{id: edges, description: A ControlNet., licence: MIT, files: {{repository: me/edges}}, base: small, kind: canny,
     scale: 1.0}}
annotators:
  - {{id: far, description: Depth., licence: MIT, files: {{repository: me/depth}}, kind: depth}}
upscalers:
  - {{id: x4, description: An upscaler., licence: MIT}}
"""


@pytest.fixture(scope="module")
def repositories(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small models as their authors would publish them: with pickles, and in two precisions."""
    root = tmp_path_factory.mktemp("hub")
    small = small_catalogue.model(None).files.folder
    net = small_catalogue.controlnets[0].files.folder
    depth = small_catalogue.annotators[0].files.folder
    assert small is not None
    assert net is not None
    assert depth is not None
    for source, name in (
        (small, "small"),
        (small / "vae", "vae"),
        (small / "vae", "tiny"),
        (net, "edges"),
        (depth, "depth"),
    ):
        shutil.copytree(source, root / "me" / name)
    for file in list(root.rglob("*.safetensors")):
        (file.parent / f"{file.stem}.bin").write_bytes(b"a pickle")
        if "small" in file.parts:
            shutil.copy(file, file.with_name(f"{file.stem}.fp16.safetensors"))
    (root / "me/small/sd_xl_base.safetensors").write_bytes(b"all parts in one file")
    return root


@pytest.fixture
def server(repositories: Path) -> Iterator[Hub]:
    with hub(repositories) as running:
        yield running


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    file = tmp_path / "catalogue.yaml"
    file.write_text(_CATALOGUE)
    return file


def _config(catalogue: Path, **args: object) -> Path:
    """A Serve config with the small model and its ControlNet, and with an option that fetching leaves alone."""
    file = catalogue.parent / "config.yaml"
    chosen = {"models": ["small"], "controlnets": ["edges"], "annotators": [], "upscalers": [], **args}
    args = {"catalogue": str(catalogue), **chosen, "denoiser": {"device": "cuda"}}
    file.write_text(yaml.safe_dump({"applications": [{"name": "atelier", "args": args}]}))
    return file


def _start(file: Path, models_dir: Path, server: Hub | None, **more: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "ATELIER_MODELS_DIR": str(models_dir),
        **(server.environment if server else {}),
        **more,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "atelier.models.fetch", str(file)],
        cwd=_ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _fetch(file: Path, models_dir: Path, server: Hub | None, **more: str) -> tuple[int, str, str]:
    process = _start(file, models_dir, server, **more)
    output, errors = process.communicate(timeout=_WAIT_S)
    return process.returncode, output, errors


def _fetched(models_dir: Path, repository: str) -> set[str]:
    folder = models_dir / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_only_the_files_that_are_loaded_are_fetched(catalogue: Path, tmp_path: Path, server: Hub) -> None:
    models_dir = tmp_path / "models"
    status, output, errors = _fetch(_config(catalogue), models_dir, server)
    assert (status, errors) == (0, "")
    assert f"Model 'small': fetching me/small at {COMMIT}" in output.splitlines()
    assert _fetched(models_dir, "me/small") == _NEEDED
    assert [_fetched(models_dir, f"me/{name}") for name in ("vae", "tiny", "edges")] == [_VAE] * 3
    assert not (models_dir / "hub/models--me--depth").exists()


def test_what_is_there_is_not_fetched_again(catalogue: Path, tmp_path: Path, server: Hub) -> None:
    config, models_dir = _config(catalogue), tmp_path / "models"
    assert _fetch(config, models_dir, server)[0] == 0
    sent = len(server.sent)
    status, output, errors = _fetch(config, models_dir, server, HF_HUB_OFFLINE="1")
    assert (status, errors, len(server.sent)) == (0, "", sent)
    assert [line.rpartition(" ")[2] for line in output.splitlines()] == ["there"] * 4


def test_only_the_configs_that_go_with_a_single_file_are_fetched(
    catalogue: Path, small_catalogue: Catalogue, tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.models import loading

    files = f"files: {{repository: me/small, revision: {COMMIT}, variant: fp16}}"
    single = f"files: {{file: one.safetensors, config: {{repository: me/small, revision: {COMMIT}}}}}"
    text = catalogue.read_text().replace(files, single).replace("    vae: {repository: me/vae}\n", "")
    catalogue.write_text(text)
    config, models_dir = _config(catalogue, controlnets=[]), tmp_path / "models"
    status, _, errors = _fetch(config, models_dir, server)
    place = catalogue.parent / "one.safetensors"
    assert (status, errors.splitlines()) == (
        1,
        [f"Model 'small': the file {place} does not exist. Put it there, or correct `file` in the catalogue."],
    )
    assert _fetched(models_dir, "me/small") == {
        *(name for name in _NEEDED if not name.endswith(".safetensors")),
        "vae/config.json",
    }
    folder = small_catalogue.model(None).files.folder
    assert folder is not None
    write_single_file(folder, place)
    assert _fetch(config, models_dir, server)[0] == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = read_catalogue(catalogue, Storage(models_dir=models_dir, require_weights=True)).model("small")
    assert loading.load_unet(model, CPU).config.sample_size == 8
    assert loading.load_vae(model, CPU).config.scaling_factor == 0.8
    assert len(loading.load_text_encoders(model, CPU)) == len(loading.load_tokenizers(model)) == 2
    assert loading.load_scheduler(model).config.beta_schedule == "scaled_linear"


def test_several_at_once_share_the_work(catalogue: Path, tmp_path: Path, server: Hub) -> None:
    config, models_dir = _config(catalogue), tmp_path / "models"
    processes = [_start(config, models_dir, server) for _ in range(3)]
    ended = [process.communicate(timeout=_WAIT_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert _fetched(models_dir, "me/small") == _NEEDED
    weights = [name for name in server.sent if name.endswith("model.fp16.safetensors")]
    assert len(weights) == len(set(weights)) == 3


def test_a_fetched_model_is_loaded_offline(
    catalogue: Path, tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atelier.models import loading

    models_dir = tmp_path / "models"
    assert _fetch(_config(catalogue, annotators=["far"]), models_dir, server)[0] == 0
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    served = read_catalogue(catalogue, Storage(models_dir=models_dir, require_weights=True))
    model = served.model("small")
    assert loading.load_unet(model, CPU).config.sample_size == 8
    assert loading.load_vae(model, CPU).config.scaling_factor == 0.8
    assert len(loading.load_text_encoders(model, CPU)) == len(loading.load_tokenizers(model)) == 2
    assert loading.load_scheduler(model).config.beta_schedule == "scaled_linear"
    assert loading.load_controlnet(served.controlnets[0], CPU).config.conditioning_channels == 3
    loading.load_depth_estimator(served.annotators[0], CPU)


def test_a_catalogue_is_fetched_whole_and_a_missing_upscaler_is_named(
    catalogue: Path, tmp_path: Path, server: Hub
) -> None:
    models_dir = tmp_path / "models"
    status, _, errors = _fetch(catalogue, models_dir, server)
    place = models_dir / "upscalers" / "x4.safetensors"
    assert status == 1
    assert errors.startswith(f"Upscaler 'x4': the file {place} does not exist. Convert the published one by ")
    assert f"`python -m atelier.models.convert_upscaler x4.pth {place}`" in errors
    assert _fetched(models_dir, "me/depth") == {"config.json", "model.safetensors", "preprocessor_config.json"}
    place.parent.mkdir()
    place.touch()
    assert _fetch(catalogue, models_dir, server)[0] == 0


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("me/vae", "me/none", "Model 'small': cannot fetch me/none. Correct `files` in the catalogue; a private or"),
        (COMMIT, "f" * 40, f"Model 'small': cannot fetch me/small at {'f' * 40}. Check the network, HF_ENDPOINT, "),
        (
            "variant: fp16",
            "variant: fp8",
            f"Model 'small': the repository me/small at {COMMIT} has no unet/diffusion_",
        ),
    ],
)
def test_what_cannot_be_fetched_is_named_and_the_rest_is_fetched(
    catalogue: Path, tmp_path: Path, server: Hub, right: str, wrong: str, message: str
) -> None:
    catalogue.write_text(_CATALOGUE.replace(right, wrong))
    status, _, errors = _fetch(_config(catalogue), tmp_path / "models", server)
    assert status == 1
    assert errors.startswith(message)
    assert _fetched(tmp_path / "models", "me/edges") == _VAE


def test_without_a_network_the_repository_is_named(catalogue: Path, tmp_path: Path) -> None:
    status, _, errors = _fetch(_config(catalogue), tmp_path / "models", None, HF_HUB_OFFLINE="1")
    assert status == 1
    first, *_ = errors.splitlines()
    assert first.startswith(f"Model 'small': cannot fetch me/small at {COMMIT}. Check the network, ")
    assert "unset HF_HUB_OFFLINE" in first


@pytest.mark.parametrize(
    ("args", "message"),
    [({"models": ["other"]}, "Unknown model 'other'"), ({"models": []}, "the args of atelier are wrong: models: ")],
)
def test_a_wrong_config_is_explained(catalogue: Path, tmp_path: Path, args: dict[str, object], message: str) -> None:
    status, _, errors = _fetch(_config(catalogue, **args), tmp_path, None)
    assert status == 2
    assert message in errors


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    status, _, errors = _fetch(tmp_path / "none.yaml", tmp_path, None)
    assert (status, errors.partition(": ")[0]) == (2, f"Cannot read {tmp_path / 'none.yaml'}")


def test_fetching_imports_no_model_libraries() -> None:
    script = (
        "import sys, atelier.models.fetch\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'ray'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=_ROOT)
