"""What a search of the hub returns, and what it says when the hub does not answer."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage
from atelier.core.errors import HubOffline, HubUnavailable
from atelier.core.params import RepositoryKind, parse
from atelier.core.params.download import DownloadParams
from atelier.hub.hub import Hub, Offer
from tests.hub import COMMIT
from tests.hub import Hub as Server


async def _by_id(hub: Hub, words: str = "", **more: object) -> dict[str, Offer]:
    found = await hub.search(words, limit=20, **more)  # type: ignore[arg-type]
    return {offer.repository.id: offer for offer in found}


async def test_a_model_is_found_with_what_its_download_takes(own_hub: Hub, repositories: Path) -> None:
    offer = (await _by_id(own_hub))["me/tiny-sdxl"]
    found = offer.repository
    assert (found.kind, found.licence.id, found.revision) == ("model", "apache-2.0", COMMIT)
    assert (found.downloads, found.likes, found.is_gated) == (50, 3, False)
    assert offer.choice is not None
    names = {file.name for file in offer.choice.files}
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert not any(name.endswith(".bin") for name in names)
    sizes = [(repositories / "me/tiny-sdxl" / name).stat().st_size for name in names]
    assert offer.choice.num_bytes == sum(sizes) > 13_000_000


async def test_a_lora_is_found_with_its_base_and_the_licence_of_its_author(own_hub: Hub) -> None:
    found = (await _by_id(own_hub))["me/neon"].repository
    assert (found.kind, found.base) == ("lora", "me/tiny-sdxl")
    assert (found.licence.id, found.licence.link) == ("neon-licence", "https://example.org/licence")


async def test_a_licence_without_a_link_is_on_the_page_of_the_repository(own_hub: Hub, server: Server) -> None:
    found = await _by_id(own_hub)
    assert found["me/tiny-sdxl"].repository.licence.link == f"{server.address}/me/tiny-sdxl"
    assert found["me/styles"].repository.licence.id == "unknown"


async def test_the_most_downloaded_come_first_and_no_more_than_asked_for(own_hub: Hub) -> None:
    found = await own_hub.search("", limit=3)
    assert [offer.repository.id for offer in found] == ["me/tiny-sdxl", "me/neon", "me/styles"]


async def test_a_repository_whose_id_is_sent_comes_first(own_hub: Hub, server: Server) -> None:
    server.cards = {**server.cards, "me/neon-more": {"downloads": 99}}
    (server.root / "me/neon-more").mkdir(exist_ok=True)
    found = await own_hub.search("me/neon", limit=2)
    (server.root / "me/neon-more").rmdir()
    assert [offer.repository.id for offer in found] == ["me/neon", "me/neon-more"]


@pytest.mark.parametrize(
    ("words", "kind", "base", "ids"),
    [
        ("NEON", None, None, {"me/neon", "other/gated-neon"}),
        ("", "model", None, {"me/tiny-sdxl"}),
        ("", "controlnet", None, {"me/canny"}),
        ("neon", "model", None, set()),
        ("", None, "me/tiny-sdxl", {"me/neon", "me/styles"}),
    ],
)
async def test_a_search_is_narrowed(
    own_hub: Hub, words: str, kind: RepositoryKind | None, base: str | None, ids: set[str]
) -> None:
    assert (await _by_id(own_hub, words, kind=kind, base=base)).keys() == ids


async def test_what_cannot_be_used_is_found_with_the_reason(own_hub: Hub) -> None:
    found = await _by_id(own_hub)
    reasons = {name: offer.reason for name, offer in found.items() if offer.choice is None}
    assert reasons.keys() == {"me/pickles", "me/canny", "me/styles"}
    assert "safetensors" in str(reasons["me/pickles"])
    assert "controlnet" in str(reasons["me/canny"])
    assert "'tiny-neon.safetensors', 'tiny-outline.safetensors'" in str(reasons["me/styles"])


async def test_a_gated_repository_is_found(own_hub: Hub) -> None:
    assert (await _by_id(own_hub))["other/gated-neon"].repository.is_gated


async def test_what_is_installed_is_marked(own_hub: Hub) -> None:
    asked = parse(DownloadParams, {"repository": "me/neon", "accept_licence": "neon-licence"})
    assert not (await _by_id(own_hub))["me/neon"].is_installed
    await own_hub.download(asked, lambda _: None)
    found = await _by_id(own_hub)
    assert {name for name, offer in found.items() if offer.is_installed} == {"me/neon"}


async def test_a_hub_that_does_not_listen_is_unavailable(storage: Storage) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(HubUnavailable, match="cannot be reached"):
            await Hub(storage, storage.loras_dir, endpoint=address).search(limit=3)


async def test_a_hub_that_does_not_answer_is_unavailable_after_the_time_limit(storage: Storage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(HubUnavailable, match=r"within 0.2 s"):
            await Hub(storage, storage.loras_dir, endpoint=address, timeout_s=0.2).search(limit=3)


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"id": 7}', '[{"name": "x"}]', "[7]"])
async def test_a_server_that_is_no_hub_is_unavailable(storage: Storage, body: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        own_hub = Hub(storage, storage.loras_dir, endpoint=f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}")
        with pytest.raises(HubUnavailable):
            await own_hub.plan(DownloadParams(repository="me/neon"))
        if body not in ("[]", "{}"):
            with pytest.raises(HubUnavailable, match="does not answer as a model hub does"):
                await own_hub.search(limit=3)


async def test_offline_mode_is_named(own_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubOffline, match="HF_HUB_OFFLINE"):
        await own_hub.search(limit=3)
