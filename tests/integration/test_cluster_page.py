"""docs/cluster.md: its commands are run here where they need neither a cloud nor a GPU, and its files exist."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atelier.catalogue.catalogue import Catalogue, read_catalogue
from atelier.catalogue.entries import Files
from atelier.catalogue.selection import Selection
from atelier.models.esrgan import RRDBNet
from atelier.models.files import absent
from tests.hub import hub

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "cluster.md").read_text()
_WAIT_S = 120
_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"


def _commands() -> list[str]:
    """The lines of the page's console blocks, without comments."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```", _PAGE, flags=re.DOTALL | re.MULTILINE)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


def _publish(files: Files, source: Files, root: Path) -> dict[str, str]:
    """Copy a small model to where the hub serves the repository; returns its commit by its name."""
    assert files.repository is not None
    assert files.revision is not None
    assert source.folder is not None
    folder = root / files.repository
    shutil.copytree(source.folder, folder)
    for weights in list(folder.rglob("*.safetensors")) if files.variant else []:
        weights.rename(weights.with_name(f"{weights.stem}.{files.variant}.safetensors"))
    return {files.repository: files.revision}


def _publish_all(small: Catalogue, root: Path) -> dict[str, str]:
    """Small models under the names and commits of those that the config serves; any VAE stands for the decoder."""
    sdxl = read_catalogue().model("stabilityai/stable-diffusion-xl-base-1.0")
    model, net, depth = small.models[0].files, small.controlnets[0].files, small.annotators[0].files
    assert sdxl.vae is not None
    assert sdxl.preview_decoder is not None
    assert model.folder is not None
    vae = Files(folder=model.folder / "vae")
    commits = _publish(sdxl.files, model, root)
    commits |= _publish(sdxl.vae, vae, root) | _publish(sdxl.preview_decoder, vae, root)
    for controlnet in (one for one in read_catalogue().controlnets if one.base == sdxl.id):
        commits |= _publish(controlnet.files, net, root)
    [annotator] = [one for one in read_catalogue().annotators if one.files.repository]
    return commits | _publish(annotator.files, depth, root)


def _publish_upscalers(folder: Path) -> None:
    for release, name, num_blocks in (
        ("v0.1.0", "RealESRGAN_x4plus", 23),
        ("v0.2.2.4", "RealESRGAN_x4plus_anime_6B", 6),
    ):
        network = RRDBNet(scale=4, features=64, growth=32, num_blocks=num_blocks)
        (folder / release).mkdir(parents=True)
        torch.save({"params_ema": network.state_dict()}, folder / release / f"{name}.pth")


@pytest.mark.slow
def test_the_weights_of_the_config_are_fetched_by_the_commands(small_catalogue: Catalogue, tmp_path: Path) -> None:
    _publish_upscalers(tmp_path / "releases")
    commits = _publish_all(small_catalogue, tmp_path / "hub")
    commands = _commands()
    start, end = (
        commands.index(f"releases={_RELEASES}"),
        commands.index("python -m atelier.models.fetch configs/sdxl-80gb.yaml"),
    )
    script = "\n".join(commands[start : end + 1]).replace(_RELEASES, (tmp_path / "releases").as_uri())
    models_dir = {"ATELIER_MODELS_DIR": str(tmp_path / "models")}
    with hub(tmp_path / "hub", commits) as server:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **server.environment, **models_dir, "PATH": path}
        subprocess.run(["bash", "-euc", script], cwd=_ROOT, env=environment, check=True, timeout=_WAIT_S)
    selection = Selection(
        models=("stabilityai/stable-diffusion-xl-base-1.0",),
        controlnets=("diffusers/controlnet-canny-sdxl-1.0", "diffusers/controlnet-depth-sdxl-1.0"),
        annotators=("depth-anything/Depth-Anything-V2-Small-hf",),
        upscalers=("RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B"),
    )
    assert absent(selection.read(models_dir)) == []
    assert len(absent(selection.read({"ATELIER_MODELS_DIR": str(tmp_path / "elsewhere")}))) == 8


def test_every_file_of_a_command_exists() -> None:
    named = {
        word for command in _commands() for word in re.findall(r"[\w./-]+\.(?:yaml|txt)|deploy/Dockerfile", command)
    }
    assert {
        "cluster.yaml",
        "deploy/Dockerfile",
        "deploy/kubernetes/rayservice.yaml",
        "configs/sdxl-80gb.yaml",
    } <= named
    assert [name for name in named if not (_ROOT / name).is_file()] == []


def test_the_exported_variables_are_those_of_the_table() -> None:
    exported = {command.split()[1].partition("=")[0] for command in _commands() if command.startswith("export ")}
    table = _PAGE.partition("## The environment")[2]
    assert len(exported) == 9
    assert exported <= set(re.findall(r"^\| `(\w+)", table, flags=re.MULTILINE))
