from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from atelier.catalogue.catalogue import read_catalogue
from atelier.catalogue.entries import (
    AnnotatorEntry,
    ControlNetEntry,
    Defaults,
    Files,
    ModelEntry,
    Sides,
    UpscalerEntry,
)
from atelier.catalogue.storage import Storage
from atelier.core.geometry import Size

_SIDES = Sides(min=32, max=96)


def _model(**fields: Any) -> ModelEntry:
    given: dict[str, Any] = {
        "id": "m",
        "description": "A model.",
        "owned_by": "me",
        "created": datetime.date(1970, 1, 3),
        "licence": "MIT",
        "files": Files(folder=Path("weights")),
        "sides_px": _SIDES,
        "defaults": Defaults(size=Size(width=64, height=32), num_inference_steps=10, guidance_scale=4),
    }
    return ModelEntry(**{**given, **fields})


def _controlnet(**fields: Any) -> ControlNetEntry:
    given: dict[str, Any] = {"kind": "canny", "scale": 1, "base": "m", "files": Files(repository="me/net")}
    return ControlNetEntry(id="c", description="", licence="MIT", **{**given, **fields})


def _annotator(**fields: Any) -> AnnotatorEntry:
    return AnnotatorEntry(id="a", description="", licence="MIT", kind="depth", **fields)


def _defaults(**fields: Any) -> Defaults:
    return Defaults(**{"size": "64x32", "num_inference_steps": 10, "guidance_scale": 4, **fields})


@pytest.mark.parametrize("files", [{}, {"folder": Path("a"), "repository": "b"}])
def test_files_are_in_one_place(files: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="give either folder, repository or file"):
        Files(**files)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"folder": Path("a"), "file": Path("b.safetensors")}, "give either folder, repository or file"),
        ({"file": Path("b.ckpt")}, "file b.ckpt is not safetensors; a pickle such as .ckpt may run code"),
        ({"folder": Path("a"), "config": Files(folder=Path("c"))}, "config is a folder or repository, and goes"),
        ({"file": Path("b.safetensors"), "config": Files(file=Path("c.safetensors"))}, "config is a folder or"),
    ],
)
def test_a_single_file_is_safetensors_with_configs_elsewhere(files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Files(**files)


def test_the_configs_of_a_single_file_are_by_default_those_of_sdxl(tmp_path: Path) -> None:
    sdxl = read_catalogue().model("stabilityai/stable-diffusion-xl-base-1.0").files
    storage = Storage(models_dir=tmp_path, require_weights=True)
    files = Files.model_validate({"file": "a.safetensors"}, context={"storage": storage, "folder": tmp_path})
    assert files.file == tmp_path / "a.safetensors"
    assert (files.configs.repository, files.configs.revision) == (sdxl.repository, sdxl.revision)
    assert files.configs.storage == storage
    config = Files(folder=Path("/configs"))
    assert Files(file=Path("a.safetensors"), config=config).configs == config
    assert sdxl.configs is sdxl


@pytest.mark.parametrize("make", [_controlnet, _annotator])
def test_only_base_models_are_single_files(make: Any) -> None:
    with pytest.raises(ValidationError, match="only base models and VAEs may be a single file"):
        make(files=Files(file=Path("a.safetensors")))


def test_the_source_of_files_is_their_place() -> None:
    assert Files(folder=Path("/a/b")).source == "/a/b"
    assert Files(file=Path("/a/b.safetensors")).source == "/a/b.safetensors"
    assert Files(repository="me/model", revision="main", variant="fp16").source == "me/model"


@pytest.mark.parametrize(
    ("width", "height", "is_allowed"),
    [
        (32, 96, True),
        (96, 32, True),
        (24, 64, False),
        (64, 24, False),
        (104, 64, False),
        (64, 104, False),
        (60, 64, False),
        (64, 60, False),
    ],
)
def test_sides_allow_multiples_of_eight_between_their_bounds(width: int, height: int, is_allowed: bool) -> None:
    assert _SIDES.allow(Size(width=width, height=height)) is is_allowed


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((61, 67), (64, 64)), ((10, 500), (32, 96)), ((500, 10), (96, 32)), ((48, 72), (48, 72)), ((43, 45), (40, 48))],
)
def test_the_nearest_allowed_size_is_found_side_by_side(size: tuple[int, int], nearest: tuple[int, int]) -> None:
    found = _SIDES.nearest(Size(width=size[0], height=size[1]))
    assert (found.width, found.height) == nearest


def test_the_smallest_side_is_a_latent_position() -> None:
    assert Sides(min=8, max=64).min == 8
    with pytest.raises(ValidationError):
        Sides(min=7, max=64)


def test_a_default_size_is_written_as_text() -> None:
    assert _defaults().size == Size(width=64, height=32)
    assert _defaults().negative_prompt is None
    with pytest.raises(ValidationError):
        _defaults(size="64")


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("num_inference_steps", (1, 150), (0, 151)),
        ("guidance_scale", (0, 30), (-0.1, 30.1)),
    ],
)
def test_defaults_have_the_bounds_of_requests(
    field: str, good: tuple[float, float], bad: tuple[float, float]
) -> None:
    for value in good:
        assert getattr(_defaults(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(ValidationError):
            _defaults(**{field: value})


def test_a_model_has_the_euler_sampler_and_its_own_schedule_by_default() -> None:
    defaults = _defaults()
    assert (defaults.sampler, defaults.schedule, defaults.empty_prompt) == ("euler", None, "")


def test_a_default_schedule_is_one_that_the_default_sampler_has() -> None:
    defaults = _defaults(sampler="dpmpp_2m", schedule="karras")
    assert (defaults.sampler, defaults.schedule) == ("dpmpp_2m", "karras")
    with pytest.raises(ValidationError, match="euler_a goes with normal, trailing, linspace; got 'karras'"):
        _defaults(sampler="euler_a", schedule="karras")
    for unknown in ({"sampler": "k_euler"}, {"schedule": "cosine"}):
        with pytest.raises(ValidationError):
            _defaults(**unknown)


def test_a_default_size_outside_the_sides_is_an_error() -> None:
    with pytest.raises(ValidationError, match="default size 104x32 is outside sides_px"):
        _model(defaults=_defaults(size="104x32"))


def test_a_model_is_sdxl_without_previews_or_another_vae_by_default() -> None:
    model = _model()
    assert (model.family, model.preview_decoder, model.latent_rgb, model.vae) == ("sdxl", None, None, None)
    assert not model.has_previews
    with pytest.raises(ValidationError):
        _model(family="flux")


def test_the_day_a_model_was_made_is_midnight_utc() -> None:
    assert _model().created_unix_s == 172_800


def test_a_model_has_previews_by_a_decoder_or_by_a_projection() -> None:
    assert _model(preview_decoder=Files(folder=Path("decoder"))).has_previews
    assert _model(latent_rgb=((0.1, 0.2, 0.3),) * 5).has_previews


def test_a_projection_has_four_channels_and_a_bias() -> None:
    rows = ((0.1, 0.2, 0.3),) * 5
    assert _model(latent_rgb=rows).latent_rgb == rows
    for wrong in (rows[:4], (*rows, rows[0]), ((0.1, 0.2),) * 5):
        with pytest.raises(ValidationError):
            _model(latent_rgb=wrong)


@pytest.mark.parametrize(("scale", "is_allowed"), [(0, False), (0.01, True), (2, True), (2.01, False)])
def test_a_recommended_scale_is_one_that_clients_may_send(scale: float, is_allowed: bool) -> None:
    if is_allowed:
        assert _controlnet(scale=scale).scale == scale
    else:
        with pytest.raises(ValidationError):
            _controlnet(scale=scale)


def test_a_controlnet_is_of_a_known_kind_and_an_annotator_draws_depth() -> None:
    with pytest.raises(ValidationError):
        _controlnet(kind="pose")
    fields: dict[str, Any] = {"id": "a", "description": "", "licence": "MIT", "files": Files(repository="me/a")}
    assert AnnotatorEntry(**fields, kind="depth").kind == "depth"
    with pytest.raises(ValidationError):
        AnnotatorEntry(**fields, kind="canny")


def test_an_upscaler_has_weights_if_its_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    for name, has_weights in (("here", True), ("nowhere", False), (".", False)):
        entry = UpscalerEntry(id="u", description="", licence="MIT", file=tmp_path / name)
        assert entry.has_weights is has_weights


def test_a_required_upscaler_has_weights_wherever_it_is_described(tmp_path: Path) -> None:
    fields = {"id": "u", "description": "", "licence": "MIT", "file": tmp_path / "nowhere"}
    storage = Storage(require_weights=True)
    assert UpscalerEntry.model_validate(fields, context={"storage": storage}).has_weights


def test_an_upscaler_that_names_no_file_lies_in_the_folder_of_models() -> None:
    entry = UpscalerEntry.model_validate({"id": "u", "description": "", "licence": "MIT"})
    assert entry.file == Path.home() / ".cache" / "atelier" / "upscalers" / "u.safetensors"
    with pytest.raises(ValidationError, match="id"):
        UpscalerEntry.model_validate({"description": "", "licence": "MIT"})


def test_entries_are_frozen_and_take_no_unknown_names() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _SIDES.min = 8  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Sides(min=8, max=16, step=8)  # type: ignore[call-arg]
