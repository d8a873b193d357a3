"""What is checked before a download begins: the licence, the files, and who may read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.catalogue.storage import Storage
from atelier.core.errors import (
    AtelierError,
    Forbidden,
    InvalidParameter,
    LicenceNotAccepted,
    NotFound,
    UnsupportedValue,
)
from atelier.core.params import DownloadParams, parse
from atelier.hub.hub import Hub
from tests.hub import COMMIT, hub
from tests.hub import Hub as Server

_ACCEPTED = {"accept_licence": "neon-licence"}


def _params(repository: str, licence: str | None, **more: object) -> DownloadParams:
    return parse(DownloadParams, {"repository": repository, "accept_licence": licence} | more)


async def test_the_branch_is_pinned_to_its_commit(own_hub: Hub) -> None:
    planned = await own_hub.plan(_params("me/neon", "neon-licence", revision="main"))
    assert planned == _params("me/neon", "neon-licence", revision=COMMIT, kind="lora", file="tiny-neon.safetensors")


@pytest.mark.parametrize("sent", [None, "mit", "neon"])
async def test_a_licence_that_is_not_accepted_is_named_with_its_link(own_hub: Hub, sent: str | None) -> None:
    for call in (own_hub.plan, lambda params: own_hub.download(params, lambda _: None)):
        with pytest.raises(LicenceNotAccepted, match=r"is 'neon-licence', see https://example.org/licence") as error:
            await call(_params("me/neon", sent))
        assert error.value.param == "accept_licence"


@pytest.mark.parametrize(
    ("repository", "more", "error", "param", "message"),
    [
        ("me/none", {}, NotFound, "repository", "the hub has no repository 'me/none'"),
        ("me/neon", {"revision": "v2"}, NotFound, "revision", "has no revision 'v2'"),
        ("me/pickles", {}, UnsupportedValue, "repository", "no weights in safetensors; pickles"),
        ("me/canny", {}, UnsupportedValue, "repository", "holds a controlnet"),
        ("me/styles", {}, UnsupportedValue, "file", "several; name one of: 'tiny-neon.safetensors', 'tiny-out"),
        ("me/styles", {"file": "x.safetensors"}, UnsupportedValue, "file", "has no 'x.safetensors' of: 'tiny-neon"),
        (
            "me/neon",
            {"kind": "model", **_ACCEPTED},
            UnsupportedValue,
            "file",
            "'tiny-neon.safetensors' .* not served: it",
        ),
        ("me/tiny-sdxl", {"file": "a.safetensors"}, UnsupportedValue, "file", "has no 'a.safetensors' of: "),
    ],
)
async def test_what_cannot_be_downloaded_is_refused(
    own_hub: Hub, repository: str, more: dict[str, object], error: type[AtelierError], param: str, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        await own_hub.plan(_params(repository, "mit", **more))
    assert caught.value.param == param


async def test_a_gated_repository_without_access_is_refused_with_what_to_do(own_hub: Hub) -> None:
    with pytest.raises(Forbidden, match=r"'other/gated-neon' is gated\. Accept its terms .* HF_TOKEN"):
        await own_hub.plan(_params("other/gated-neon", "mit"))


async def test_a_repository_that_does_not_say_what_it_holds_is_downloaded_as_the_client_says(
    own_hub: Hub, server: Server
) -> None:
    server.cards = {}
    with pytest.raises(UnsupportedValue, match="does not say what it holds; send `model` or `lora`"):
        await own_hub.plan(_params("me/neon", "unknown"))
    assert (await own_hub.plan(_params("me/neon", "unknown", kind="lora"))).kind == "lora"


async def test_half_precision_is_preferred_if_all_weights_have_it(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "me/both"
    for part, weights in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ):
        (folder / part).mkdir(parents=True)
        for name in ("config.json", f"{weights}.safetensors", f"{weights}.fp16.safetensors"):
            (folder / part / name).touch()
    for name in ("scheduler", "tokenizer", "tokenizer_2"):
        (folder / name).mkdir()
        (folder / name / f"{name.removesuffix('_2')}_config.json").touch()

    async def weights_of(own_hub: Hub) -> set[str]:
        [offer] = await own_hub.search("both", limit=1)
        assert offer.choice is not None
        return {file.name for file in offer.choice.files if file.name.endswith(".safetensors")}

    with hub(tmp_path) as server:
        server.cards = {"me/both": {"tags": ["diffusers:StableDiffusionXLPipeline"]}}
        own_hub = Hub(storage, storage.loras_dir, endpoint=server.address)
        assert {name.endswith(".fp16.safetensors") for name in await weights_of(own_hub)} == {True}
        (folder / "vae/diffusion_pytorch_model.fp16.safetensors").unlink()
        assert {name.endswith(".fp16.safetensors") for name in await weights_of(own_hub)} == {False}


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"repository": name}
            for name in ("neon", "../neon", "me/../neon", "me/neon/x", "http://me/neon", "/me/neon")
        ),
        *({"repository": "me/neon", "revision": one} for one in ("..", "../main", "a b", "main/", "", "a\nb")),
        *(
            {"repository": "me/neon", "file": one}
            for one in ("a.bin", "../a.safetensors", "/a.safetensors", "a/../b.safetensors", "a\\b.safetensors")
        ),
        {"repository": "me/neon", "kind": "vae"},
    ],
)
def test_names_that_lead_elsewhere_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter) as error:
        parse(DownloadParams, fields)
    assert error.value.param == list(fields)[-1]
