from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from atelier.catalogue.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError, read_catalogue
from atelier.catalogue.entries import LoraEntry, ModelEntry
from atelier.catalogue.library import ModelLibrary
from atelier.catalogue.loras import LoraLibrary, Loras
from atelier.core.errors import LoraNotFound, ModelNotFound
from tests.lora_files import write_lora

_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_ENTRY = """
loras:
  - id: mine
    description: A LoRA.
    licence: MIT
    base: tiny-sdxl
    file: loras/mine.safetensors
"""


class _Clock:
    """A clock that moves only when a test sets it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(scope="module")
def models() -> tuple[ModelEntry, ...]:
    return read_catalogue().only(["tiny-sdxl", "tiny-sd15", _SDXL]).models


def _library(
    folder: Path, models: Sequence[ModelEntry], entries: Sequence[LoraEntry] = (), clock: _Clock | None = None
) -> LoraLibrary:
    return LoraLibrary(entries, ModelLibrary(models), [folder], now_s=clock or _Clock())


def _ids(loras: Loras) -> list[str]:
    return list(loras.by_id)


def _reasons(loras: Loras) -> dict[str, str]:
    return {file.name: file.reason for file in loras.refused}


def _entry(lora_id: str, file: Path, base: str | None = None) -> LoraEntry:
    return LoraEntry(id=lora_id, description="", licence="MIT", file=file, base=base)


def test_files_in_the_folder_are_served_in_order(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    for name in ("b", "a", "c"):
        write_lora(tmp_path, name)
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / ".hidden.safetensors").write_text("x")
    (tmp_path / "more").mkdir()
    loras = _library(tmp_path, models).look()
    assert _ids(loras) == ["a", "b", "c"]
    assert loras.by_id["a"].file == tmp_path / "a.safetensors"
    assert loras.refused == ()


def test_a_folder_may_come_later(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    clock = _Clock()
    library = _library(tmp_path / "loras", models, clock=clock)
    assert library.look() == Loras({})
    write_lora(tmp_path / "loras", "neon")
    clock.now_s = 1
    assert _ids(library.look()) == ["neon"]


def test_a_folder_is_looked_at_once_a_second_at_most(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    assert _ids(library.look()) == []
    write_lora(tmp_path, "neon")
    clock.now_s = 0.99
    assert _ids(library.look()) == []
    clock.now_s = 1
    assert _ids(library.look()) == ["neon"]
    (tmp_path / "neon.safetensors").unlink()
    clock.now_s = 1.99
    assert _ids(library.look()) == ["neon"]
    clock.now_s = 2
    assert _ids(library.look()) == []


def test_a_lora_that_is_not_known_yet_is_looked_for_at_once(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    """A Denoiser may have looked just before the file came that a Router has seen."""
    library = _library(tmp_path, models)
    library.look()
    write_lora(tmp_path, "neon")
    assert library.get("neon").file == tmp_path / "neon.safetensors"
    with pytest.raises(LoraNotFound, match="'pastel'"):
        library.get("pastel")


def _rewrite_unseen(file: Path, old: bytes, new: bytes) -> None:
    """Change a file so that its size, its time and its inode stay as they were."""
    found = file.stat()
    with file.open("r+b") as opened:
        data = opened.read()
        assert len(old) == len(new)
        assert old in data
        opened.seek(0)
        opened.write(data.replace(old, new))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_only_files_that_have_changed_are_read(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    for name in ("a", "b"):
        write_lora(tmp_path, name, metadata={"modelspec.title": "old"}, description="old")
    (tmp_path / "c.safetensors").write_bytes(b"\x80refused")
    first = library.look()
    for name in ("a", "b"):
        _rewrite_unseen(tmp_path / f"{name}.safetensors", b'"old"', b'"new"')
    _rewrite_unseen(tmp_path / "c.safetensors", b"\x80refused", bytes(8))
    (tmp_path / "a.json").write_text('{"description": "another"}')
    (tmp_path / "b.png").write_text("x")
    clock.now_s = 1
    second = library.look()
    assert (second.by_id["a"].title, second.by_id["a"].description) == ("new", "another")
    assert (second.by_id["b"].title, second.by_id["b"].preview) == ("old", tmp_path / "b.png")
    assert second.refused == first.refused


def test_a_replaced_file_of_equal_size_and_time_is_read_again(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    clock = _Clock()
    library = _library(tmp_path / "loras", models, clock=clock)
    old = write_lora(tmp_path / "loras", "neon", metadata={"modelspec.title": "old"})
    new = write_lora(tmp_path / "new", "neon", metadata={"modelspec.title": "new"})
    os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    assert library.look().by_id["neon"].title == "old"
    new.rename(old)
    clock.now_s = 1
    assert library.look().by_id["neon"].title == "new"


@pytest.mark.parametrize(("content", "later_ns"), [('{"tags": ["new"]} ', 0), ('{"tags": ["new"]}', 1)])
def test_a_file_that_is_written_anew_in_place_is_read_again(
    tmp_path: Path, models: tuple[ModelEntry, ...], content: str, later_ns: int
) -> None:
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    write_lora(tmp_path, "neon", tags=["old"])
    assert library.look().by_id["neon"].tags == ("old",)
    found = (tmp_path / "neon.json").stat()
    (tmp_path / "neon.json").write_text(content)
    os.utime(tmp_path / "neon.json", ns=(found.st_atime_ns, found.st_mtime_ns + later_ns))
    clock.now_s = 1
    assert library.look().by_id["neon"].tags == ("new",)


def test_an_incomplete_file_is_served_when_it_is_complete(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    file = write_lora(tmp_path, "neon")
    data = file.read_bytes()
    file.write_bytes(data[:-4])
    assert _reasons(library.look()) == {"neon.safetensors": "it is incomplete, or still being copied"}
    file.write_bytes(data)
    clock.now_s = 1
    assert library.look().refused == ()
    assert _ids(library.look()) == ["neon"]


@pytest.mark.parametrize("name", ["neon.pt", "neon.ckpt", "neon.bin", "neon.pth"])
def test_pickles_are_refused(tmp_path: Path, models: tuple[ModelEntry, ...], name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")
    assert _reasons(_library(tmp_path, models).look()) == {
        name: "only safetensors files are served; a pickle may run code"
    }


def test_refused_files_do_not_hide_the_others(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    write_lora(tmp_path, "good")
    write_lora(tmp_path, "far", base="nowhere")
    write_lora(tmp_path, "broken", weight="x")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    loras = _library(tmp_path, models).look()
    assert _ids(loras) == ["good"]
    assert _reasons(loras) == {
        "broken.safetensors": "broken.json: weight: Input should be a valid number",
        "dangling.safetensors": "it is not a file, or a broken link",
        "far.safetensors": "its base model 'nowhere' is not served",
        "folder.safetensors": "it is not a file, or a broken link",
        "loop.safetensors": "it is not a file, or a broken link",
    }


def test_a_name_that_is_no_text_is_refused_with_its_bytes(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    os.rename(write_lora(tmp_path, "x"), os.fsencode(tmp_path) + b"/\xff.safetensors")
    [refused] = _library(tmp_path, models).look().refused
    assert refused.name == "\\xff.safetensors"
    assert refused.reason.startswith("id: ")


@pytest.mark.parametrize("ending", ["safetensors", "json", "png"])
def test_links_that_lead_out_of_the_folder_are_refused(
    tmp_path: Path, models: tuple[ModelEntry, ...], ending: str
) -> None:
    outside = write_lora(tmp_path / "outside", "neon", description="x")
    (tmp_path / "outside" / "neon.png").write_text("x")
    write_lora(tmp_path / "loras", "neon")
    (tmp_path / "loras" / f"neon.{ending}").unlink(missing_ok=True)
    (tmp_path / "loras" / f"neon.{ending}").symlink_to(outside.with_suffix(f".{ending}"))
    loras = _library(tmp_path / "loras", models).look()
    assert _ids(loras) == []
    [(name, reason)] = loras.refused
    assert name == "neon.safetensors"
    assert reason.endswith("is a link that leads out of the folder")


def test_links_inside_the_folder_are_followed(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    """Volumes of Kubernetes have them, and the folder itself may be one."""
    write_lora(tmp_path / "volume" / "..data", "neon")
    (tmp_path / "volume" / "neon.safetensors").symlink_to(Path("..data") / "neon.safetensors")
    (tmp_path / "loras").symlink_to(tmp_path / "volume")
    assert _ids(_library(tmp_path / "loras", models).look()) == ["neon"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ([], None),
        (["neon.png"], "neon.png"),
        (["neon.preview.png", "neon.jpg", "neon.webp"], "neon.webp"),
        (["neon.preview.png"], "neon.preview.png"),
        (["other.png"], None),
    ],
)
def test_a_preview_lies_beside_its_file(
    tmp_path: Path, models: tuple[ModelEntry, ...], names: list[str], shown: str | None
) -> None:
    write_lora(tmp_path, "neon")
    for name in names:
        (tmp_path / name).write_text("x")
    assert _library(tmp_path, models).look().by_id["neon"].preview == (None if shown is None else tmp_path / shown)


def test_the_json_names_the_preview(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    write_lora(tmp_path, "neon", preview="shown.webp")
    (tmp_path / "neon.png").write_text("x")
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    assert library.look().by_id["neon"].preview is None
    (tmp_path / "shown.webp").write_text("x")
    clock.now_s = 1
    assert library.look().by_id["neon"].preview == tmp_path / "shown.webp"


def test_subfolders_are_looked_into_but_not_through_links(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    write_lora(tmp_path / "outside", "far")
    folder = tmp_path / "loras"
    for depth, name in enumerate(("a", "b", "c", "d", "e", "f")):
        write_lora(folder.joinpath(*"12345"[:depth]), name, preview=f"{name}.webp")
        folder.joinpath(*"12345"[:depth], f"{name}.webp").write_text("x")
    write_lora(folder / ".hidden", "hidden")
    (folder / "linked").symlink_to(tmp_path / "outside")
    loras = _library(folder, models).look()
    assert sorted(_ids(loras)) == ["a", "b", "c", "d", "e"]
    assert loras.by_id["c"].preview == folder / "1" / "2" / "c.webp"
    assert loras.refused == ()


def test_a_subfolder_that_cannot_be_read_is_reported(
    tmp_path: Path, models: tuple[ModelEntry, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may read every folder, so the operating system's error is raised here."""
    write_lora(tmp_path, "neon")
    write_lora(tmp_path / "private", "secret")
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "private":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    loras = _library(tmp_path, models).look()
    assert _ids(loras) == ["neon"]
    assert _reasons(loras) == {"private/": "the folder cannot be read"}


def test_entries_of_the_catalogue_go_before_files_of_their_id(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    mine = _entry("neon", write_lora(tmp_path / "elsewhere", "neon"))
    write_lora(tmp_path / "loras", "neon")
    loras = _library(tmp_path / "loras", models, [mine]).look()
    assert loras.by_id == {"neon": mine}
    assert _reasons(loras) == {"neon.safetensors": "the id 'neon' is taken by the catalogue"}


def test_a_file_that_the_catalogue_describes_is_not_described_twice(
    tmp_path: Path, models: tuple[ModelEntry, ...]
) -> None:
    mine = _entry("glowing", write_lora(tmp_path, "neon"))
    write_lora(tmp_path, "pastel")
    loras = _library(tmp_path, models, [mine]).look()
    assert (_ids(loras), loras.refused) == (["glowing", "pastel"], ())
    assert loras.by_id["glowing"] == mine


def test_entries_without_a_file_are_served_when_it_is_there(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    file = tmp_path / "neon.safetensors"
    entries = [_entry("neon", file), _entry("neon", write_lora(tmp_path, "other"))]
    clock = _Clock()
    library = _library(tmp_path / "none", models, entries, clock)
    loras = library.look()
    assert loras.by_id == {"neon": entries[1]}
    assert _reasons(loras) == {"neon.safetensors": f"'neon' of the catalogue: there is no file {file}"}
    write_lora(tmp_path, "neon")
    clock.now_s = 1
    loras = library.look()
    assert loras.by_id == {"neon": entries[0]}
    assert _reasons(loras) == {"other.safetensors": "the id 'neon' is taken"}


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    (tmp_path / "loras").write_text("a file")
    loras = _library(tmp_path / "loras", models).look()
    assert _reasons(loras) == {str(tmp_path / "loras"): "the folder cannot be read: Not a directory"}


def test_files_beyond_the_limit_are_reported(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    for index in range(4999):
        (tmp_path / f"{index:04}.pt").touch()
    for name in ("a", "b", "c"):
        write_lora(tmp_path, name)
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    loras = library.look()
    assert _ids(loras) == ["a"]
    assert len(loras.refused) == 5000
    assert loras.refused[-1] == ("b.safetensors", "this and later files: at most 5000 are read")
    for name in ("b", "c"):
        (tmp_path / f"{name}.safetensors").unlink()
    clock.now_s = 1
    assert len(library.look().refused) == 4999


def test_a_refused_file_is_logged_once(
    tmp_path: Path, models: tuple[ModelEntry, ...], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.safetensors").write_text("x")
    clock = _Clock()
    library = _library(tmp_path, models, clock=clock)
    with caplog.at_level(logging.WARNING, "atelier.catalogue.loras"):
        library.look()
        write_lora(tmp_path, "b")
        (tmp_path / "c\n.pt").write_text("x")
        clock.now_s = 1
        library.look()
    assert caplog.messages == [
        "the LoRA file 'a.safetensors' is not served: it is not a safetensors file, or is still being copied",
        "the LoRA file 'c\\n.pt' is not served: only safetensors files are served; a pickle may run code",
    ]


def test_many_threads_find_the_same_loras(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    for name in ("a", "b"):
        write_lora(tmp_path, name)
    library, found = _library(tmp_path, models), list[list[str]]()
    threads = [threading.Thread(target=lambda: found.append(_ids(library.look()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["a", "b"]] * 8


def test_a_slow_look_holds_nobody_up_who_can_have_the_last_one(
    tmp_path: Path, models: tuple[ModelEntry, ...]
) -> None:
    is_looking, may_look = threading.Event(), threading.Event()

    class SlowClock(_Clock):
        def __call__(self) -> float:
            if self.now_s:
                is_looking.set()
                assert may_look.wait(30)
            return self.now_s

    clock = SlowClock()
    library = _library(tmp_path, models, clock=clock)
    first = library.look()
    write_lora(tmp_path, "neon")
    clock.now_s = 1
    thread = threading.Thread(target=library.look)
    thread.start()
    assert is_looking.wait(30)
    assert library.look() is first
    may_look.set()
    thread.join()
    assert _ids(library.look()) == ["neon"]


def test_a_pickled_library_looks_where_it_arrives(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    library = _library(tmp_path, models, [_entry("mine", write_lora(tmp_path / "elsewhere", "mine"))])
    assert _ids(library.look()) == ["mine"]
    sent = pickle.dumps(library)
    write_lora(tmp_path, "neon")
    assert _ids(pickle.loads(sent).look()) == ["mine", "neon"]


@pytest.mark.parametrize(
    ("asked", "hints"),
    [
        ("neom", "Did you mean 'neon', 'neon-2'? GET /v1/loras lists all."),
        ("Neon", "Did you mean 'neon', 'neon-2'? GET /v1/loras lists all."),
        ("neon.safetensors", "Did you mean 'neon', 'neon-2'? GET /v1/loras lists all."),
        ("zzz", "GET /v1/loras lists all."),
        ("broken", "broken.safetensors: it is not a safetensors file, or is still being copied. GET /v1/loras"),
    ],
)
def test_an_unknown_lora_is_named_with_the_nearest(
    tmp_path: Path, models: tuple[ModelEntry, ...], asked: str, hints: str
) -> None:
    for name in ("neon", "neon-2", "pastel"):
        write_lora(tmp_path, name)
    (tmp_path / "broken.safetensors").write_text("x")
    with pytest.raises(LoraNotFound) as caught:
        _library(tmp_path, models).look().get(asked, param="loras[1].model")
    assert str(caught.value).startswith(f"loras[1].model: there is no LoRA {asked!r}. {hints}")
    assert caught.value.param == "loras[1].model"


def test_the_nearest_of_many_is_found() -> None:
    ids = [f"{word}-{index}" for word in ("pastel", "outline", "checkerboard") for index in range(1000)]
    loras = Loras({lora_id: _entry(lora_id, Path(lora_id)) for lora_id in [*ids, "Neon Glow"]})
    with pytest.raises(LoraNotFound, match="Did you mean 'Neon Glow'"):
        loras.get("neon-glow")


def test_loras_are_found_by_words_tags_and_model(tmp_path: Path, models: tuple[ModelEntry, ...]) -> None:
    tiny, sd15, sdxl = models
    write_lora(tmp_path, "neon", description="Glowing outlines", tags=["Style", "dark"], trigger_words=["neon style"])
    write_lora(tmp_path, "pastel", title="Pale", description="Soft colours", tags=["style"], base=tiny.id)
    loras = _library(tmp_path, models).look()

    def found(search: str = "", tags: Sequence[str] = (), model: ModelEntry | None = None) -> list[str]:
        return [entry.id for entry in loras.find(search, tags, model)]

    assert found() == found("  ") == ["neon", "pastel"]
    assert found("NEO") == found("glowing dark") == found("neon style") == ["neon"]
    assert found("pale soft") == ["pastel"]
    assert found("neon pale") == found("glowing-outlines") == []
    assert found(tags=["STYLE"]) == ["neon", "pastel"]
    assert found(tags=["style", "Dark"]) == ["neon"]
    assert found(tags=["sty"]) == []
    assert found(model=sdxl) == ["neon"]
    assert found(model=sd15) == []
    assert found("l", ["style"], tiny) == ["neon", "pastel"]


def _catalogue(folder: Path, text: str = _ENTRY) -> Catalogue:
    """The shipped models with another LoRA."""
    file = folder / "catalogue.yaml"
    file.write_text(DEFAULT_CATALOGUE.read_text().partition("\ncontrolnets:")[0] + text)
    return read_catalogue(file)


def test_an_entry_in_the_yaml_has_defaults(tmp_path: Path) -> None:
    catalogue = _catalogue(tmp_path)
    [entry] = catalogue.lora_entries
    assert (entry.file, entry.weight) == (tmp_path / "loras" / "mine.safetensors", 1)
    assert (entry.trigger_words, entry.tags, entry.preview) == ((), (), None)
    write_lora(tmp_path / "loras", "mine")
    assert catalogue.loras.get("mine") == entry
    more = "    weight: 0.5\n    trigger_words: [neon style]\n    tags: [style]\n    preview: loras/mine.png\n"
    [entry] = _catalogue(tmp_path, _ENTRY + more).lora_entries
    assert (entry.weight, entry.trigger_words, entry.tags) == (0.5, ("neon style",), ("style",))
    assert entry.preview == tmp_path / "loras" / "mine.png"


@pytest.mark.parametrize("wrong", ["weight: 5", "weight: .nan", "trigger_words: ['']", "tags: [1]", "zoom: 1"])
def test_a_mistake_in_an_entry_is_named_with_its_line(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(CatalogueError, match=rf"catalogue\.yaml:\d+: loras\.0\.{wrong.partition(':')[0]}"):
        _catalogue(tmp_path, f"{_ENTRY}    {wrong}\n")


@pytest.mark.parametrize("lora_id", ["../mine", "a/b", ".a", "a:b", "'a>b'", "''"])
def test_an_id_that_no_tag_could_hold_is_a_mistake(tmp_path: Path, lora_id: str) -> None:
    with pytest.raises(CatalogueError, match=r"loras\.0\.id"):
        _catalogue(tmp_path, _ENTRY.replace("id: mine", f"id: {lora_id}"))


def test_without_a_choice_a_graph_serves_local_loras_of_its_models(tmp_path: Path) -> None:
    catalogue = _catalogue(tmp_path)
    assert catalogue.only(["tiny-sdxl"], loras=None).lora_entries == ()
    write_lora(tmp_path / "loras", "mine")
    assert _ids(catalogue.only(["tiny-sdxl"], loras=None).loras.look()) == ["mine"]
    assert _ids(catalogue.only(["tiny-sdxl"]).loras.look()) == []
    assert catalogue.only([_SDXL], loras=None).lora_entries == ()
    anywhere = _catalogue(tmp_path, _ENTRY.replace("    base: tiny-sdxl\n", ""))
    assert _ids(anywhere.only([_SDXL], loras=None).loras.look()) == ["mine"]


def test_chosen_loras_are_those_of_the_catalogue(tmp_path: Path) -> None:
    catalogue = _catalogue(tmp_path)
    assert [entry.id for entry in catalogue.only(["tiny-sdxl"], loras=["mine"]).lora_entries] == ["mine"]
    with pytest.raises(ModelNotFound, match=r"Unknown LoRA 'nope'\. Known LoRAs: mine"):
        catalogue.only(["tiny-sdxl"], loras=["nope"])
    with pytest.raises(ModelNotFound, match="LoRA 'mine' goes with tiny-sdxl, which is not served"):
        catalogue.only([_SDXL], loras=["mine"])


def test_a_catalogue_takes_its_folder_along(tmp_path: Path) -> None:
    catalogue = read_catalogue().only(["tiny-sdxl"], lora_folders=[tmp_path])
    sent = pickle.dumps(catalogue)
    write_lora(tmp_path, "neon")
    write_lora(tmp_path, "far", base=_SDXL)
    arrived: Catalogue = pickle.loads(sent)
    assert arrived.loras.get("neon").id == "neon"
    assert _reasons(arrived.loras.look()) == {"far.safetensors": f"its base model {_SDXL!r} is not served"}
