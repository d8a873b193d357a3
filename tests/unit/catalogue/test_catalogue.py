from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import Catalogue, CatalogueError, read_catalogue
from atelier.catalogue.storage import Storage
from atelier.core.errors import ModelNotFound
from atelier.core.geometry import Size

_SDXL, _TURBO = "stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/sdxl-turbo"
_KNOWN = f"tiny-sdxl, tiny-sd15, tiny-sdxl-lightning, tiny-pony, tiny-edit, {_SDXL}, {_TURBO}"
_MODEL = """models:
  - id: mine
    description: A model.
    owned_by: me
    created: 2026-01-02
    licence: MIT
    files: {folder: weights}
    sides_px: {min: 64, max: 128}
    defaults: {size: 96x64, num_inference_steps: 10, guidance_scale: 4}
"""
_OTHERS = """controlnets:
  - {id: net, description: A ControlNet., licence: MIT, files: {folder: net}, base: mine, kind: canny, scale: 1.0}
  - {id: far, description: Another., licence: MIT, files: {repository: far/net}, base: mine, kind: depth, scale: 1.0}
upscalers:
  - {id: x4, description: An upscaler., licence: MIT, file: upscalers/x4.safetensors}
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "catalogue.yaml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return read_catalogue()


def test_entries_remember_where_a_machine_keeps_models(tmp_path: Path) -> None:
    storage = Storage(models_dir=tmp_path / "models", require_weights=True)
    catalogue: Catalogue = pickle.loads(
        pickle.dumps(read_catalogue(storage=storage).only([_SDXL], [], [], ["RealESRGAN_x4plus"]))
    )
    model = catalogue.model(None)
    assert model.vae is not None
    assert model.files.storage == model.vae.storage == storage
    [upscaler] = catalogue.upscalers
    assert upscaler.file == tmp_path / "models" / "upscalers" / "RealESRGAN_x4plus.safetensors"
    assert upscaler.is_required


def test_the_catalogue_has_the_zoo_and_sdxl(shipped: Catalogue) -> None:
    zoo = ["tiny-sdxl", "tiny-sd15", "tiny-sdxl-lightning", "tiny-pony", "tiny-edit"]
    assert [entry.id for entry in shipped.models] == [*zoo, _SDXL, _TURBO]
    assert [entry.family for entry in shipped.models] == ["sdxl", "sd15", *["sdxl"] * 5]
    assert [entry.id for entry in shipped.models if entry.edits] == ["tiny-edit"]
    assert shipped.model(None).id == "tiny-sdxl"
    sdxl = shipped.model(_SDXL)
    assert sdxl.vae is not None
    assert sdxl.vae.source == "madebyollin/sdxl-vae-fp16-fix"
    assert (sdxl.files.source, sdxl.files.variant) == (_SDXL, "fp16")


def test_clients_of_openai_find_a_model_by_its_names(shipped: Catalogue) -> None:
    for name in ("dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini"):
        assert shipped.model(name).id == "tiny-sdxl"
        assert shipped.only([_SDXL]).model(name).id == _SDXL


def test_an_id_goes_before_an_alias(tmp_path: Path) -> None:
    other = _MODEL.replace("models:\n", "").replace("id: mine", "id: other\n    aliases: [mine, third]")
    catalogue = read_catalogue(_write(tmp_path, _MODEL.replace("models:\n", f"models:\n{other}")))
    assert [catalogue.model(name).id for name in ("mine", "third")] == ["mine", "other"]


def test_the_shipped_models_have_their_defaults(shipped: Catalogue) -> None:
    rows = [
        (entry.id, str(entry.defaults.size), entry.defaults.num_inference_steps, entry.defaults.guidance_scale)
        for entry in shipped.models
    ]
    assert rows == [
        ("tiny-sdxl", "128x128", 20, 5),
        ("tiny-sd15", "128x128", 20, 5),
        ("tiny-sdxl-lightning", "128x128", 4, 0),
        ("tiny-pony", "128x128", 20, 5),
        ("tiny-edit", "128x128", 20, 3),
        (_SDXL, "1024x1024", 30, 5),
        (_TURBO, "512x512", 4, 0),
    ]
    sides = [(entry.sides_px.min, entry.sides_px.max) for entry in shipped.models]
    assert sides == [(64, 256)] * 5 + [(256, 2048), (256, 1024)]
    created = [entry.created.isoformat() for entry in shipped.models]
    assert created == [
        "2026-11-20",
        "2026-12-01",
        "2026-11-30",
        "2026-11-30",
        "2026-12-01",
        "2023-07-25",
        "2023-11-27",
    ]
    assert [entry.created_unix_s for entry in shipped.models if entry.id == _SDXL] == [1690243200]


def test_models_of_few_steps_have_trailing_timesteps(shipped: Catalogue) -> None:
    samplings = {entry.id: (entry.defaults.sampler, entry.defaults.schedule) for entry in shipped.models}
    assert samplings == {
        "tiny-sdxl": ("euler", None),
        "tiny-sd15": ("euler", None),
        "tiny-sdxl-lightning": ("euler", "trailing"),
        "tiny-pony": ("euler", None),
        "tiny-edit": ("euler", None),
        _SDXL: ("euler", None),
        _TURBO: ("euler_a", "trailing"),
    }


def test_tiny_pony_has_prompts_of_its_own(shipped: Catalogue) -> None:
    defaults = {entry.id: entry.defaults for entry in shipped.models}
    pony = defaults.pop("tiny-pony")
    assert (pony.negative_prompt, pony.empty_prompt) == ("blurry", "a picture")
    assert {(other.negative_prompt, other.empty_prompt) for other in defaults.values()} == {(None, "")}


def test_the_shipped_controlnets_have_their_scales(shipped: Catalogue) -> None:
    assert [(entry.id, entry.base, entry.kind, entry.scale) for entry in shipped.controlnets] == [
        ("tiny-canny", "tiny-sdxl", "canny", 1.0),
        ("tiny-depth", "tiny-sdxl", "depth", 1.0),
        ("diffusers/controlnet-canny-sdxl-1.0", _SDXL, "canny", 0.5),
        ("diffusers/controlnet-depth-sdxl-1.0", _SDXL, "depth", 0.5),
    ]


def test_every_repository_of_the_hub_is_pinned_to_a_commit(shipped: Catalogue) -> None:
    places = [entry.files for entry in shipped.models] + [entry.files for entry in shipped.controlnets]
    places += [entry.files for entry in shipped.annotators]
    places += [entry.vae for entry in shipped.models if entry.vae is not None]
    pinned = {files.repository: files.revision for files in places if files.repository is not None}
    assert len(pinned) == 6
    for repository, revision in pinned.items():
        assert re.fullmatch("[0-9a-f]{40}", revision or ""), repository


def test_the_weights_of_the_zoo_are_there(shipped: Catalogue) -> None:
    files = [entry.files for entry in shipped.models] + [entry.files for entry in shipped.controlnets]
    files += [entry.files for entry in shipped.annotators]
    folders = [place.folder for place in files if place.folder is not None]
    assert [folder.name for folder in folders] == [
        "tiny-sdxl",
        "tiny-sd15",
        "tiny-sdxl-lightning",
        "tiny-pony",
        "tiny-edit",
        "tiny-canny",
        "tiny-depth",
        "tiny-depth-anything",
    ]
    assert all(folder.is_dir() for folder in folders)
    assert [entry.id for entry in shipped.upscalers if entry.has_weights] == ["tiny-x4"]


def test_paths_are_relative_to_the_catalogue(tmp_path: Path) -> None:
    catalogue = read_catalogue(_write(tmp_path, _MODEL + _OTHERS))
    entry = catalogue.model("mine")
    assert entry.files.folder == tmp_path / "weights"
    assert entry.defaults.size == Size(width=96, height=64)
    assert entry.created_unix_s == 1767312000
    assert catalogue.upscalers[0].file == tmp_path / "upscalers" / "x4.safetensors"


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("guidance_scale: 4", "guidance_scale: 400", 9),
        ("{folder: weights}", "{}", 7),
        ("{folder: weights}", "{folder: a, repository: b}", 7),
        ("licence: MIT", "license: MIT", 2),
        ("size: 96x64", "size: 96x60", 2),
        ("size: 96x64", "size: big", 9),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, right: str, wrong: str, line: int) -> None:
    with pytest.raises(CatalogueError, match=rf"catalogue\.yaml:{line}: models\.0"):
        read_catalogue(_write(tmp_path, _MODEL.replace(right, wrong)))


def test_every_mistake_is_named(tmp_path: Path) -> None:
    text = _MODEL.replace("min: 64", "min: 4").replace("created: 2026-01-02", "created: soon")
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(_write(tmp_path, text))
    first, second = str(caught.value).split("\n")
    assert ":5: models.0.created: " in first
    assert ":8: models.0.sides_px.min: " in second


def test_a_mistake_in_the_second_entry_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r":12: controlnets\.1\.scale"):
        read_catalogue(_write(tmp_path, _MODEL + _OTHERS.replace("kind: depth, scale: 1.0", "kind: depth, scale: 3")))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"nowhere\.yaml"):
        read_catalogue(tmp_path / "nowhere.yaml")
    with pytest.raises(CatalogueError, match="line 1"):
        read_catalogue(_write(tmp_path, "models: ["))


@pytest.mark.parametrize("text", ["", "[]", "models", "other: 1"])
def test_a_file_without_models_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(CatalogueError, match=r"catalogue\.yaml:1: "):
        read_catalogue(_write(tmp_path, text))


def test_a_graph_serves_what_it_is_given_in_that_order(shipped: Catalogue) -> None:
    served = shipped.only(
        [_SDXL, "tiny-sdxl"], ["tiny-depth", "tiny-canny"], ["tiny-depth-anything"], ["RealESRGAN_x4plus", "tiny-x4"]
    )
    assert [entry.id for entry in served.models] == [_SDXL, "tiny-sdxl"]
    assert [entry.id for entry in served.controlnets] == ["tiny-depth", "tiny-canny"]
    assert [entry.id for entry in served.annotators] == ["tiny-depth-anything"]
    assert [entry.id for entry in served.upscalers] == ["RealESRGAN_x4plus", "tiny-x4"]
    assert served.model(None).id == _SDXL


def test_a_graph_serves_only_models_by_default(shipped: Catalogue) -> None:
    served = shipped.only(["tiny-sdxl"])
    assert (served.controlnets, served.annotators, served.upscalers) == ((), (), ())


def test_without_a_choice_a_graph_serves_local_controlnets_of_its_models(shipped: Catalogue, tmp_path: Path) -> None:
    assert [entry.id for entry in shipped.only(["tiny-sdxl"], None).controlnets] == ["tiny-canny", "tiny-depth"]
    assert shipped.only([_SDXL], None).controlnets == ()
    mine = read_catalogue(_write(tmp_path, _MODEL + _OTHERS))
    assert [entry.id for entry in mine.only(["mine"], None).controlnets] == ["net"]


def test_a_controlnet_needs_its_model(shipped: Catalogue) -> None:
    with pytest.raises(ModelNotFound, match="'tiny-canny' goes with tiny-sdxl, which is not served"):
        shipped.only([_SDXL], ["tiny-canny"])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((["nope"],), f"Unknown model 'nope'. Known models: {_KNOWN}."),
        ((["tiny-sdxl"], ["nope"]), "Unknown ControlNet 'nope'. Known ControlNets: tiny-canny, tiny-depth, "),
        ((["tiny-sdxl"], [], ["nope"]), "Unknown annotator 'nope'. Known annotators: tiny-depth-anything, "),
        ((["tiny-sdxl"], [], [], ["nope"]), "Unknown upscaler 'nope'. Known upscalers: tiny-x4, RealESRGAN_x4plus, "),
    ],
)
def test_an_unknown_id_is_answered_with_the_known(
    shipped: Catalogue, ids: tuple[list[str], ...], message: str
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        shipped.only(*ids)
    assert str(caught.value).startswith(message)
    assert caught.value.param == "model"


def test_a_model_is_found_by_its_id(shipped: Catalogue) -> None:
    assert shipped.model(_SDXL).id == _SDXL
    with pytest.raises(ModelNotFound, match="Unknown model 'tiny'"):
        shipped.model("tiny")


def test_an_upscaler_is_the_first_by_default_and_none_where_there_are_none(shipped: Catalogue) -> None:
    first, named = shipped.upscaler(None), shipped.upscaler("RealESRGAN_x2plus")
    assert first is not None
    assert named is not None
    assert (first.id, named.id) == ("tiny-x4", "RealESRGAN_x2plus")
    bare = shipped.only(["tiny-sdxl"])
    assert bare.upscaler(None) is None
    with pytest.raises(ModelNotFound, match="Unknown upscaler 'tiny-x4'"):
        bare.upscaler("tiny-x4")


def test_controlnets_go_with_their_model(shipped: Catalogue) -> None:
    assert [entry.id for entry in shipped.controlnets_for("tiny-sdxl")] == ["tiny-canny", "tiny-depth"]
    assert shipped.controlnets_for("nope") == ()
