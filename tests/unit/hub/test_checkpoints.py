"""Models in one file, in the original layout: looked at before they come, and served as they were written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import SDXL_REPOSITORY, SDXL_REVISION
from atelier.catalogue.installed import list_installed, read_installed
from atelier.catalogue.storage import Storage
from atelier.core.errors import ModelUnavailable, UnsupportedValue
from atelier.core.params import DownloadParams, parse
from atelier.hub.hub import Hub
from atelier.models.loading import load_tokenizers, load_unet
from tests.checkpoint_files import SD_1, write_checkpoint
from tests.hub import COMMIT, hub
from tests.hub import Hub as Server
from tests.single_file import write_single_file
from tests.small_models import CPU

#: The headers of the checkpoints have fewer bytes.
_HEADER_BYTES = 2**20
_TINY = Path(__file__).parents[3] / "zoo/weights/tiny-sdxl"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with tiny-sdxl in one file, others beside it, and tiny-sdxl's configs in place of SDXL base's."""
    root = tmp_path_factory.mktemp("checkpoints")
    folder = root / "me/checkpoints"
    write_checkpoint(folder, "old", shapes=SD_1)
    (folder / "no.safetensors").write_bytes(b"\xff" * 100)
    (folder / "large.safetensors").write_bytes((5_000_000).to_bytes(8, "little") + b" " * 5_000_000)
    write_single_file(_TINY, folder / "whole.safetensors")
    (root / "me/alone").mkdir()
    shutil.copy(folder / "whole.safetensors", root / "me/alone")
    shutil.copytree(_TINY / "unet", root / "me/no-text/unet")
    shutil.copytree(_TINY, root / SDXL_REPOSITORY, ignore=shutil.ignore_patterns("*.safetensors"))
    return root


@pytest.fixture
def server(checkpoints: Path) -> Iterator[Server]:
    with hub(checkpoints, {SDXL_REPOSITORY: SDXL_REVISION}) as running:
        yield running


def _params(file: str | None, repository: str = "me/checkpoints") -> DownloadParams:
    fields = {"repository": repository, "kind": "model", "file": file, "accept_licence": "unknown"}
    return parse(DownloadParams, fields)


async def test_only_the_header_is_read_before_the_download(own_hub: Hub, server: Server) -> None:
    server.faults.hold_after = _HEADER_BYTES
    planned = await own_hub.plan(_params("whole.safetensors"))
    assert (planned.kind, planned.file, planned.revision) == ("model", "whole.safetensors", COMMIT)


@pytest.mark.parametrize(
    ("file", "repository", "message"),
    [
        (
            None,
            "me/checkpoints",
            "several; name one of: 'large.safetensors', 'no.safetensors', 'old",
        ),
        ("old.safetensors", "me/checkpoints", "'old.safetensors' .* it is a Stable Diffusion 1 checkpoint"),
        ("no.safetensors", "me/checkpoints", "'no.safetensors' .* it is not a safetensors file"),
        ("large.safetensors", "me/checkpoints", "its header has 5000000 bytes; at most 4194304 are read"),
        (None, "me/no-text", "not an SDXL model in diffusers' layout .* no scheduler/scheduler_config.json"),
    ],
)
async def test_what_is_no_whole_model_is_refused_before_the_download(
    own_hub: Hub, file: str | None, repository: str, message: str
) -> None:
    with pytest.raises(UnsupportedValue, match=message):
        await own_hub.plan(_params(file, repository))


@pytest.mark.parametrize(
    ("file", "repository", "entry_id"),
    [("whole.safetensors", "me/checkpoints", "me/checkpoints--whole"), (None, "me/alone", "me/alone")],
)
async def test_a_checkpoint_is_the_model_that_it_was_written_from(
    own_hub: Hub, storage: Storage, file: str | None, repository: str, entry_id: str
) -> None:
    await own_hub.download(_params(file, repository), lambda _: None)
    [model] = read_installed(storage.installed_dir, storage)
    assert (model.id, model.owned_by, model.licence) == (entry_id, "me", "unknown")
    origin = read_catalogue().model("tiny-sdxl")
    ours, theirs = (load_unet(one, CPU).state_dict() for one in (model, origin))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokens = [[tokenizer("a circle").input_ids for tokenizer in load_tokenizers(one)] for one in (model, origin)]
    assert tokens[0] == tokens[1]


async def test_the_entry_of_a_checkpoint_moves_with_its_folder(own_hub: Hub, storage: Storage) -> None:
    await own_hub.download(_params("whole.safetensors"), lambda _: None)
    assert storage.models_dir is not None
    moved = Storage(models_dir=storage.models_dir.rename(storage.models_dir.with_name("moved")))
    [model] = read_installed(moved.installed_dir, moved)
    assert model.files.file is not None
    assert model.files.file.is_file()


async def test_a_checkpoint_of_another_model_is_not_installed(own_hub: Hub, storage: Storage) -> None:
    with pytest.raises(ModelUnavailable, match=r"'old.safetensors' of 'me/checkpoints' .* Stable Diffusion 1"):
        await own_hub.download(_params("old.safetensors"), lambda _: None)
    assert list_installed(storage.installed_dir) == ()
