"""A download to its end: the right bytes, from where an earlier attempt ended, and nothing half installed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atelier.catalogue.installed import list_installed, read_installed
from atelier.catalogue.loras import LoraLibrary
from atelier.catalogue.storage import Storage
from atelier.core.errors import AdapterInvalid, HubFileCorrupt, HubOffline, HubUnavailable, StorageFull
from atelier.core.jobs import Progress
from atelier.core.params import DownloadParams, parse
from atelier.hub.hub import Hub
from tests.hub import COMMIT, hub
from tests.hub import Hub as Server

_ROOT = Path(__file__).parents[3]
_UNET = "unet/diffusion_pytorch_model.safetensors"
_CUT = 4_000_000
_PIECE_BYTES = 2**16
_MODEL = parse(DownloadParams, {"repository": "me/tiny-sdxl", "accept_licence": "apache-2.0"})
_LORA = parse(DownloadParams, {"repository": "me/neon", "accept_licence": "neon-licence"})


async def _download(own_hub: Hub, params: DownloadParams) -> list[Progress]:
    reports: list[Progress] = []
    await own_hub.download(params, reports.append)
    return reports


def _snapshot(storage: Storage, repository: str) -> Path:
    assert storage.models_dir is not None
    return storage.models_dir / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT


def _unet_blob(storage: Storage, repositories: Path) -> Path:
    sha256 = hashlib.sha256((repositories / "me/tiny-sdxl" / _UNET).read_bytes()).hexdigest()
    return _snapshot(storage, "me/tiny-sdxl").parents[1] / "blobs" / sha256


async def test_a_model_arrives_whole_and_gets_an_entry(own_hub: Hub, storage: Storage, repositories: Path) -> None:
    reports = await _download(own_hub, _MODEL)
    folder, published = _snapshot(storage, "me/tiny-sdxl"), repositories / "me/tiny-sdxl"
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    wanted = {
        file.relative_to(published).as_posix(): file.read_bytes()
        for file in published.rglob("*")
        if file.suffix in (".safetensors", ".json", ".txt") and file.name != "model_index.json"
    }
    assert files == wanted
    [model] = read_installed(storage.installed_dir, storage)
    assert (model.id, model.files.repository, model.files.revision) == ("me/tiny-sdxl", "me/tiny-sdxl", COMMIT)
    assert (model.licence, model.owned_by, str(model.defaults.size)) == ("apache-2.0", "me", "1024x1024")
    assert model.latent_rgb is not None
    assert model.preview_decoder is not None
    [installed] = list_installed(storage.installed_dir)
    assert installed.num_bytes == sum(map(len, wanted.values()))
    last = reports[-1]
    assert last.transfer is not None
    assert last.transfer.done_bytes == last.transfer.total_bytes == installed.num_bytes
    assert last.step == last.total == len(wanted)


@pytest.mark.parametrize("num_channels", [4, 8])
async def test_a_model_whose_unet_reads_an_image_edits(
    own_hub: Hub, storage: Storage, repositories: Path, num_channels: int
) -> None:
    config = repositories / "me/tiny-sdxl/unet/config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "in_channels": num_channels}))
    try:
        await _download(own_hub, _MODEL)
    finally:
        config.write_text(before)
    [model] = read_installed(storage.installed_dir, storage)
    assert model.edits == (num_channels == 8)


async def test_a_lora_appears_in_the_watched_folder_without_a_copy(own_hub: Hub, storage: Storage) -> None:
    library = LoraLibrary(folders=[storage.loras_dir])
    await _download(own_hub, _LORA)
    lora = library.get("me--neon")
    assert (lora.title, lora.author, lora.licence) == ("neon", "me", "neon-licence")
    assert (lora.trigger_words, lora.base) == (("neon style",), None)
    source = _snapshot(storage, "me/neon") / "tiny-neon.safetensors"
    assert lora.file.samefile(source)
    [installed] = list_installed(storage.installed_dir)
    assert (installed.id, installed.kind, installed.file) == ("me--neon", "lora", "tiny-neon.safetensors")
    assert sorted(file.name for file in storage.loras_dir.iterdir()) == ["me--neon.json", "me--neon.safetensors"]


async def test_a_lora_on_another_disk_is_copied(
    own_hub: Hub, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("atelier.hub.install.os.link", refuse)
    await _download(own_hub, _LORA)
    source = _snapshot(storage, "me/neon") / "tiny-neon.safetensors"
    assert (storage.loras_dir / "me--neon.safetensors").read_bytes() == source.read_bytes()


async def test_one_of_several_loras_has_an_id_of_its_own(own_hub: Hub, storage: Storage, server: Server) -> None:
    for stem in ("tiny-neon", "tiny-outline"):
        fields = {"repository": "me/styles", "file": f"{stem}.safetensors", "accept_licence": "unknown"}
        await _download(own_hub, parse(DownloadParams, fields))
    ids = [one.id for one in list_installed(storage.installed_dir)]
    assert ids == ["me--styles--tiny-neon", "me--styles--tiny-outline"]
    assert set(LoraLibrary(folders=[storage.loras_dir]).look().by_id) == set(ids)
    assert sorted(server.sent) == ["tiny-neon.safetensors", "tiny-outline.safetensors"]


async def test_a_broken_connection_goes_on_from_where_it_broke(
    own_hub: Hub, storage: Storage, server: Server, repositories: Path
) -> None:
    server.faults.cuts_after = [_CUT]
    await _download(own_hub, _MODEL)
    published = (repositories / "me/tiny-sdxl" / _UNET).read_bytes()
    assert (_snapshot(storage, "me/tiny-sdxl") / _UNET).read_bytes() == published
    large = {name: number for name, number in server.sent_bytes.items() if name.endswith(".safetensors")}
    assert large == {name: (repositories / "me/tiny-sdxl" / name).stat().st_size for name in large}
    assert server.sent.count(_UNET) == 2


async def test_a_hub_without_ranges_sends_the_file_again(
    own_hub: Hub, storage: Storage, server: Server, repositories: Path
) -> None:
    server.faults.cuts_after, server.faults.has_ranges = [100_000], False
    await _download(own_hub, _LORA)
    published = (repositories / "me/neon/tiny-neon.safetensors").read_bytes()
    assert (_snapshot(storage, "me/neon") / "tiny-neon.safetensors").read_bytes() == published
    assert server.sent_bytes["tiny-neon.safetensors"] == 100_000 + len(published)


async def test_a_cancelled_download_ends_soon_and_is_not_installed_and_the_next_goes_on(
    own_hub: Hub, storage: Storage, server: Server, repositories: Path
) -> None:
    server.faults.pause_s = 0.05
    reports: asyncio.Queue[Progress] = asyncio.Queue()
    running = asyncio.create_task(own_hub.download(_MODEL, reports.put_nowait))
    while True:
        transfer = (await reports.get()).transfer
        assert transfer is not None
        if transfer.done_bytes > 4 * _PIECE_BYTES:
            break
    assert transfer.done_bytes < transfer.total_bytes
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    server.faults.pause_s = 0
    assert list_installed(storage.installed_dir) == ()
    kept = sum(file.stat().st_size for file in _unet_blob(storage, repositories).parent.iterdir())
    assert kept > 4 * _PIECE_BYTES
    server.sent_bytes.clear()
    await _download(own_hub, _MODEL)
    # The first connection may have sent a last piece, which nobody received.
    assert server.sent_bytes.total() <= transfer.total_bytes - kept + _PIECE_BYTES
    assert len(list_installed(storage.installed_dir)) == 1


async def test_a_failed_connection_that_stays_so_keeps_what_has_arrived(
    own_hub: Hub, server: Server, repositories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atelier.hub.transfer._PAUSE_S", 0.01)
    server.faults.cuts_after = [65_536, 0, 0, 0, 0, 0]
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        await _download(own_hub, _LORA)
    await _download(own_hub, _LORA)
    size = (repositories / "me/neon/tiny-neon.safetensors").stat().st_size
    assert server.sent_bytes["tiny-neon.safetensors"] == size


_SCRIPT = """
import asyncio, sys
from pathlib import Path
from atelier.catalogue.storage import Storage
from atelier.core.params import DownloadParams
from atelier.hub.hub import Hub

storage = Storage(models_dir=Path(sys.argv[1]))
params = DownloadParams(repository="me/tiny-sdxl", accept_licence="apache-2.0")
asyncio.run(Hub(storage, storage.loras_dir).download(params, lambda _: None))
"""


def _start(models_dir: Path, server: Server) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(models_dir)], cwd=_ROOT, env={**os.environ, **server.environment}
    )


@pytest.mark.slow  # programs that import huggingface_hub
def test_after_a_killed_process_the_next_goes_on_from_where_it_was(
    storage: Storage, server: Server, repositories: Path
) -> None:
    assert storage.models_dir is not None
    server.faults.hold_after = _CUT
    process = _start(storage.models_dir, server)
    assert server.faults.held.wait(60)
    partial = _unet_blob(storage, repositories).with_suffix(".incomplete")
    while not partial.exists() or partial.stat().st_size < _CUT // 2:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    arrived = partial.stat().st_size
    assert list_installed(storage.installed_dir) == ()
    server.faults.hold_after = None
    server.sent_bytes.clear()
    assert _start(storage.models_dir, server).wait(60) == 0
    size = (repositories / "me/tiny-sdxl" / _UNET).stat().st_size
    assert server.sent_bytes[_UNET] == size - arrived
    assert len(list_installed(storage.installed_dir)) == 1


@pytest.mark.slow  # programs that import huggingface_hub
def test_two_processes_share_one_download(storage: Storage, server: Server, repositories: Path) -> None:
    assert storage.models_dir is not None
    server.faults.hold_after = _CUT
    processes = [_start(storage.models_dir, server) for _ in range(2)]
    assert server.faults.held.wait(60)
    server.faults.released.set()
    assert [process.wait(60) for process in processes] == [0, 0]
    for name in (_UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert server.sent_bytes[name] == (repositories / "me/tiny-sdxl" / name).stat().st_size
    assert len(list_installed(storage.installed_dir)) == 1


async def test_a_file_with_other_bytes_is_refused_and_deleted(own_hub: Hub, storage: Storage, server: Server) -> None:
    server.faults.are_bytes_wrong = True
    with pytest.raises(HubFileCorrupt, match=r"'tiny-neon.safetensors'.* has the SHA-256 [0-9a-f]{64}; its metadata"):
        await _download(own_hub, _LORA)
    assert list_installed(storage.installed_dir) == ()
    assert storage.models_dir is not None
    assert [file for file in storage.models_dir.rglob("*blobs/*") if file.is_file()] == []
    server.faults.are_bytes_wrong = False
    await _download(own_hub, _LORA)
    assert len(list_installed(storage.installed_dir)) == 1


async def test_a_file_that_does_not_fit_onto_the_disk_is_refused_before_a_byte(own_hub: Hub, server: Server) -> None:
    server.faults.claimed_bytes = 2**60
    for call in (own_hub.plan(_LORA), own_hub.download(_LORA, lambda _: None)):
        with pytest.raises(StorageFull, match=r"needs 1,099,511,627,776 MiB more .* MiB are missing"):
            await call
    assert server.sent == []


async def test_offline_mode_ends_a_download(own_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubOffline):
        await _download(own_hub, _MODEL)


async def test_weights_that_are_no_lora_are_refused(tmp_path: Path, storage: Storage, repositories: Path) -> None:
    weights = repositories / "me/canny/diffusion_pytorch_model.safetensors"
    (tmp_path / "me/wrong").mkdir(parents=True)
    (tmp_path / "me/wrong/lora.safetensors").write_bytes(weights.read_bytes())
    with hub(tmp_path) as server:
        own_hub = Hub(storage, storage.loras_dir, endpoint=server.address)
        fields = {"repository": "me/wrong", "kind": "lora", "accept_licence": "unknown"}
        with pytest.raises(AdapterInvalid, match="no tensor in it has a name of a LoRA"):
            await _download(own_hub, parse(DownloadParams, fields))
    assert list_installed(storage.installed_dir) == ()
    assert list(storage.loras_dir.iterdir()) == []


async def test_words_of_a_card_that_are_no_trigger_words_are_left_out(
    own_hub: Hub, storage: Storage, server: Server
) -> None:
    card = {"license": "mit", "instance_prompt": "<lora:x:1>"}
    server.cards = {"me/neon": {"tags": ["lora"], "cardData": card}}
    await _download(own_hub, parse(DownloadParams, {"repository": "me/neon", "accept_licence": "mit"}))
    assert "trigger_words" not in json.loads((storage.loras_dir / "me--neon.json").read_text())
