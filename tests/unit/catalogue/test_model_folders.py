"""Folders of ComfyUI's and AUTOMATIC1111's layouts: what is served of them, and what is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from atelier.catalogue.catalogue import Catalogue, CatalogueError, read_catalogue
from atelier.catalogue.checkpoint_folder import CheckpointFolder
from atelier.catalogue.entries import SDXL_REPOSITORY
from atelier.catalogue.library import ModelLibrary
from atelier.catalogue.selection import Selection
from atelier.core.errors import ModelNotFound
from tests.checkpoint_files import SD_1, write_checkpoint
from tests.engines import Clock
from tests.lora_files import write_lora

_ROOT = Path(__file__).parents[3]


def _read(*roots: Path, loras_dir: Path | None = None) -> Catalogue:
    """The default catalogue with folders of models, and no other LoRAs than theirs."""
    return Selection(model_folders=roots, loras=(), loras_dir=loras_dir or roots[0] / "none").read({})


def _found(catalogue: Catalogue) -> list[str]:
    return [entry.id for entry in catalogue.all_models()][1:]


def _refused(catalogue: Catalogue) -> dict[str, str]:
    return {file.name: file.reason for file in catalogue.library.look().refused}


@pytest.mark.parametrize(
    ("checkpoints", "loras", "upscalers"),
    [
        ("models/checkpoints", "models/loras", "models/upscale_models"),
        ("models/Stable-diffusion", "models/Lora", "models/ESRGAN"),
        ("checkpoints", "loras", "upscale_models"),
        ("Stable-diffusion", "Lora", "RealESRGAN"),
    ],
)
def test_models_are_found_in_both_layouts(tmp_path: Path, checkpoints: str, loras: str, upscalers: str) -> None:
    write_checkpoint(tmp_path / checkpoints / "anime", "pony")
    write_lora(tmp_path / loras / "styles", "glow", base="pony")
    (tmp_path / upscalers).mkdir(parents=True)
    source = Path("zoo/weights/tiny-x4/model.safetensors")
    (tmp_path / upscalers / "x4.safetensors").write_bytes((_ROOT / source).read_bytes())
    catalogue = _read(tmp_path)
    assert _found(catalogue) == ["pony"]
    assert catalogue.model("pony").files.file == tmp_path / checkpoints / "anime" / "pony.safetensors"
    assert list(catalogue.loras.look().by_id) == ["glow"]
    assert catalogue.loras.get("glow").file == tmp_path / loras / "styles" / "glow.safetensors"
    assert [entry.id for entry in catalogue.upscalers] == ["tiny-x4", "x4"]
    assert _refused(catalogue) == {}


def test_a_graphs_own_folder_of_loras_goes_first(tmp_path: Path) -> None:
    ours, theirs = write_lora(tmp_path / "ours", "glow"), write_lora(tmp_path / "comfy" / "loras", "glow")
    catalogue = _read(tmp_path / "comfy", loras_dir=tmp_path / "ours")
    loras = catalogue.loras.look()
    assert (loras.by_id["glow"].file, theirs.exists()) == (ours, True)
    assert loras.refused == (("glow.safetensors", "the id 'glow' is taken by another file"),)


def test_refused_files_are_reported_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "checkpoints"
    write_checkpoint(folder, "good")
    write_checkpoint(folder / "old", "v1-5", shapes=SD_1)
    write_checkpoint(folder, "tiny-sdxl")
    write_checkpoint(folder / "other", "good")
    (folder / "old" / "v1-4.ckpt").write_bytes(b"\x80\x02")
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-1])
    (folder / "secret.safetensors").symlink_to(write_checkpoint(tmp_path / "outside", "secret"))
    for kind in ("embeddings", "controlnet"):
        write_checkpoint(tmp_path / "models" / kind, kind)
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "easynegative.pt").write_bytes(b"")
    (tmp_path / "upscale_models").mkdir()
    save_file({"model.x": np.zeros(1)}, tmp_path / "upscale_models" / "swinir.safetensors")
    catalogue = _read(tmp_path)
    assert _found(catalogue) == ["good"]
    pickled = "only safetensors files are served; a pickle may run code"
    assert _refused(catalogue) == {
        "cut.safetensors": "it is incomplete, or still being copied",
        "old/v1-4.ckpt": pickled,
        "old/v1-5.safetensors": "it is a Stable Diffusion 1 checkpoint, not an SDXL checkpoint",
        "good.safetensors": "the id 'good' is taken by another model",
        "tiny-sdxl.safetensors": "the id 'tiny-sdxl' is taken by the catalogue",
        "secret.safetensors": "secret.safetensors is a link that leads out of the folder",
        "embeddings.safetensors": "embeddings (textual inversion) are not supported",
        "easynegative.pt": pickled,
        "controlnet.safetensors": "it does not say which base model it goes with; enter it in the catalogue under "
        "`controlnets`",
        "swinir.safetensors": "it is neither RRDBNet nor SRVGGNetCompact in Real-ESRGAN's names",
    }
    with pytest.raises(ModelNotFound, match=r"v1-5\.safetensors: it is a Stable Diffusion 1 checkpoint"):
        catalogue.model("v1-5")


def test_a_checkpoint_comes_and_goes_without_a_restart(tmp_path: Path) -> None:
    default = read_catalogue()
    clock, reader = Clock(), CheckpointFolder(tmp_path / "checkpoints", default.model(SDXL_REPOSITORY))
    library = ModelLibrary([default.model("tiny-sdxl")], [reader], now_s=clock)
    assert list(library.look().by_id) == ["tiny-sdxl"]
    file = write_checkpoint(tmp_path / "checkpoints", "pony")
    clock.now_s = 1
    assert list(library.look().by_id) == ["tiny-sdxl", "pony"]
    file.with_suffix(".json").write_text('{"description": "Ponies."}')
    clock.now_s = 2
    assert library.get("pony").description == "Ponies."
    file.write_bytes(file.read_bytes()[:-1])
    clock.now_s = 3
    with pytest.raises(ModelNotFound, match="it is incomplete, or still being copied"):
        library.get("pony")
    file.unlink()
    clock.now_s = 4
    assert library.look().by_id.keys() == {"tiny-sdxl"}
    assert library.look().refused == ()


_OTHER_PROCESS = """
import json, pickle, sys
catalogue = pickle.loads(sys.stdin.buffer.read())
print(json.dumps([entry.model_dump(mode="json") for entry in catalogue.all_models()]))
"""


def test_two_processes_find_the_same_models(tmp_path: Path) -> None:
    for name in ("b", "a", "sub/b", "sub/c"):
        folder, _, stem = f"models/checkpoints/{name}".rpartition("/")
        write_checkpoint(tmp_path / folder, stem, beside={"description": name})
    catalogue = _read(tmp_path)
    assert _found(catalogue) == ["a", "b", "c"]
    sent = pickle.dumps(catalogue)
    write_checkpoint(tmp_path / "checkpoints", "d")
    here = [entry.model_dump(mode="json") for entry in _read(tmp_path).all_models()]
    other = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS], input=sent, capture_output=True, check=True, cwd=_ROOT
    )
    assert json.loads(other.stdout) == here
    assert [entry["id"] for entry in here] == ["tiny-sdxl", "a", "b", "c", "d"]


_EXTRA = """
comfyui:
    base_path: elsewhere
    is_default: true
    checkpoints: models/checkpoints
    loras: |
        first
        second
    clip: models/clip
a111:
    base_path: {absolute}
    checkpoints: |
        models/Stable-diffusion
    embeddings: embeddings
empty:
    checkpoints:
"""


def test_comfyuis_file_of_paths_is_read(tmp_path: Path) -> None:
    root = tmp_path / "comfy"
    for folder, name in (
        (root / "elsewhere" / "models" / "checkpoints", "one"),
        (tmp_path / "webui" / "models" / "Stable-diffusion", "two"),
        (tmp_path / "webui" / "embeddings", "three"),
        (root / "models" / "checkpoints", "four"),
        (tmp_path / "webui" / "checkpoints", "five"),
    ):
        write_checkpoint(folder, name)
    for name in ("first", "second"):
        write_lora(root / "elsewhere" / name, name)
    (root / "extra_model_paths.yaml").write_text(_EXTRA.format(absolute=tmp_path / "webui"))
    catalogue = _read(root)
    assert sorted(_found(catalogue)) == ["four", "one", "two"]
    assert list(catalogue.loras.look().by_id) == ["first", "second"]
    assert list(_refused(catalogue)) == ["three.safetensors"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "extra_model_paths.yaml: while parsing"),
        ("- a", "extra_model_paths.yaml: each program needs a mapping of kinds to paths"),
        ("a: b", "extra_model_paths.yaml: each program needs a mapping of kinds to paths"),
        ("a: {checkpoints: [x]}", r"extra_model_paths.yaml: a.checkpoints must be a text, a path in each line"),
    ],
)
def test_a_mistake_in_the_file_of_paths_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    with pytest.raises(CatalogueError, match=message):
        _read(tmp_path)


def test_an_empty_file_of_paths_names_nothing(tmp_path: Path) -> None:
    (tmp_path / "extra_model_paths.yaml").write_text("# all in comments\n")
    assert _found(_read(tmp_path)) == []


def test_a_root_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=f"model_folders: there is no folder {tmp_path}/none"):
        _read(tmp_path / "none")


def test_a_folder_that_two_roots_name_is_read_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "models" / "checkpoints", "pony")
    (tmp_path / "link").symlink_to(tmp_path / "models")
    catalogue = _read(tmp_path, tmp_path / "models", tmp_path / "link")
    assert _found(catalogue) == ["pony"]
    assert _refused(catalogue) == {}


def test_an_upscaler_whose_id_is_taken_is_not_served(tmp_path: Path) -> None:
    file = tmp_path / "ESRGAN" / "tiny-x4.safetensors"
    file.parent.mkdir()
    file.write_bytes((_ROOT / "zoo/weights/tiny-x4/model.safetensors").read_bytes())
    [upscaler] = _read(tmp_path).upscalers
    assert upscaler.file != file
