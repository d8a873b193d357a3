"""Single-file checkpoints in the original layout, written by our own inverse of the conversion."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.errors import ModelUnavailable
from atelier.models.loading import (
    Placement,
    load_scheduler,
    load_text_encoders,
    load_tokenizers,
    load_unet,
    load_vae,
)
from tests.single_file import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE, write_single_file, write_vae_file
from tests.small_models import CPU

Load = Callable[[ModelEntry, Placement], object]

_PARTS: tuple[tuple[str, Load, str], ...] = (
    (UNET, load_unet, "UNet"),
    (VAE, load_vae, "VAE"),
    (TEXT_ENCODER, load_text_encoders, "first text encoder"),
    (TEXT_ENCODER_2, load_text_encoders, "second text encoder"),
)
#: A tensor of each part, in the original's names.
_TENSORS: tuple[tuple[str, Load, str], ...] = (
    (f"{UNET}middle_block.1.norm.weight", load_unet, "mid_block.attentions.0.norm.weight"),
    (f"{UNET}label_emb.0.0.weight", load_unet, "label_emb.0.0.weight"),
    (f"{VAE}decoder.mid.attn_1.q.weight", load_vae, "decoder.mid_block.attentions.0.to_q.weight"),
    (f"{TEXT_ENCODER}text_model.final_layer_norm.bias", load_text_encoders, "final_layer_norm.bias"),
    (f"{TEXT_ENCODER_2}ln_final.bias", load_text_encoders, "text_model.final_layer_norm.bias"),
)


def _folder(catalogue: Catalogue) -> Path:
    folder = catalogue.model(None).files.folder
    assert folder is not None
    return folder


def _entry(catalogue: Catalogue, file: Path, **fields: object) -> ModelEntry:
    """The catalogue's model with its weights in one file."""
    files = Files(file=file, config=Files(folder=_folder(catalogue)))
    return catalogue.model(None).model_copy(update={"files": files, **fields})


@pytest.fixture(scope="module")
def whole(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> ModelEntry:
    folder = tmp_path_factory.mktemp("single")
    return _entry(small_catalogue, write_single_file(_folder(small_catalogue), folder / "small.safetensors"))


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modules_have_the_weights_of_the_folder(small_catalogue: Catalogue, whole: ModelEntry, dtype: str) -> None:
    separate, place = small_catalogue.model(None), Placement("cpu", dtype)  # type: ignore[arg-type]
    assert _same(load_unet(whole, place), load_unet(separate, place))
    assert _same(load_vae(whole, place), load_vae(separate, place))
    for ours, theirs in zip(load_text_encoders(whole, place), load_text_encoders(separate, place), strict=True):
        assert _same(ours, theirs)
    for own, other in zip(load_tokenizers(whole), load_tokenizers(separate), strict=True):
        assert own("a red circle").input_ids == other("a red circle").input_ids


def test_nothing_is_asked_of_the_network(whole: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for load in (load_unet, load_vae, load_text_encoders):
        load(whole, CPU)
    load_scheduler(whole)


def test_loaded_weights_outlive_their_file(small_catalogue: Catalogue, whole: ModelEntry, tmp_path: Path) -> None:
    assert whole.files.file is not None
    file = tmp_path / "x.safetensors"
    file.write_bytes(whole.files.file.read_bytes())
    loaded = load_unet(_entry(small_catalogue, file), CPU)
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert _same(loaded, load_unet(whole, CPU))


def test_modules_are_in_evaluation_mode(whole: ModelEntry) -> None:
    for module in (load_unet(whole, CPU), load_vae(whole, CPU), *load_text_encoders(whole, CPU)):
        assert not module.training


@pytest.mark.parametrize(("prefix", "load", "title"), _PARTS)
def test_a_part_that_the_file_lacks_is_named(
    small_catalogue: Catalogue, tmp_path: Path, prefix: str, load: Load, title: str
) -> None:
    file = write_single_file(_folder(small_catalogue), tmp_path / "half.safetensors", without=[prefix])
    with pytest.raises(ModelUnavailable, match=rf"{file} cannot be loaded: it has no {title} \(.*{prefix}"):
        load(_entry(small_catalogue, file), CPU)


@pytest.mark.parametrize(("name", "load", "shown"), _TENSORS)
def test_a_tensor_that_the_file_lacks_is_named(
    small_catalogue: Catalogue, tmp_path: Path, name: str, load: Load, shown: str
) -> None:
    file = write_single_file(_folder(small_catalogue), tmp_path / "x.safetensors", without=[name])
    with pytest.raises(ModelUnavailable, match=rf"{file} cannot be loaded: its .* lacks .*{shown}"):
        load(_entry(small_catalogue, file), CPU)


@pytest.mark.parametrize(("name", "load"), [(name, load) for name, load, _ in _TENSORS])
def test_a_tensor_of_another_shape_is_an_error(
    small_catalogue: Catalogue, tmp_path: Path, name: str, load: Load
) -> None:
    file = write_single_file(_folder(small_catalogue), tmp_path / "x.safetensors")
    save_file({**load_file(file), name: torch.zeros(3, 5)}, file)
    with pytest.raises(ModelUnavailable, match=rf"{file} cannot be loaded: its .* does not fit its config"):
        load(_entry(small_catalogue, file), CPU)


@pytest.mark.parametrize("load", [load_unet, load_vae, load_text_encoders, lambda entry, _: load_scheduler(entry)])
@pytest.mark.parametrize("damage", ["cut", "garbage", "absent"])
def test_a_damaged_file_is_named(
    small_catalogue: Catalogue, whole: ModelEntry, tmp_path: Path, load: Load, damage: str
) -> None:
    assert whole.files.file is not None
    file, data = tmp_path / "x.safetensors", whole.files.file.read_bytes()
    if damage != "absent":
        file.write_bytes(data[:-100] if damage == "cut" else b"\x80\x02" + data[2:])
    with pytest.raises(ModelUnavailable, match=f"The checkpoint {file} cannot be loaded: "):
        load(_entry(small_catalogue, file), CPU)


def test_a_config_folder_that_does_not_exist_is_named(whole: ModelEntry, tmp_path: Path) -> None:
    files = Files(file=whole.files.file, config=Files(folder=tmp_path / "nowhere"))
    with pytest.raises(ModelUnavailable, match="nowhere does not exist"):
        load_unet(whole.model_copy(update={"files": files}), CPU)


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_vae_may_come_from_another_file(small_catalogue: Catalogue, tmp_path: Path, is_alone: bool) -> None:
    source, file = _folder(small_catalogue), tmp_path / "vae.safetensors"
    write_vae_file(source, file) if is_alone else write_single_file(source, file, without=[UNET])
    entry = small_catalogue.model(None)
    separate = entry.model_copy(update={"vae": Files(file=file, config=Files(folder=source))})
    assert _same(load_vae(separate, CPU), load_vae(entry, CPU))


_MARKED = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}


def _scheduler(
    catalogue: Catalogue, folder: Path, marks: tuple[str, ...], metadata: dict[str, str], **fields: object
) -> EulerDiscreteScheduler:
    tensors = {name: _MARKED[name] for name in marks}
    file = write_single_file(_folder(catalogue), folder / "x.safetensors", extra=tensors, metadata=metadata)
    return load_scheduler(_entry(catalogue, file, **fields))


@pytest.mark.parametrize(
    ("marks", "metadata", "fields", "expected"),
    [
        ((), {}, {}, ("epsilon", False, "leading")),
        (("v_pred",), {}, {}, ("v_prediction", False, "leading")),
        (("v_pred", "ztsnr"), {}, {}, ("v_prediction", True, "trailing")),
        (("ztsnr",), {}, {}, ("epsilon", False, "leading")),
        ((), {"modelspec.prediction_type": "v"}, {}, ("v_prediction", False, "leading")),
        (("ztsnr",), {"modelspec.prediction_type": "v"}, {}, ("v_prediction", True, "trailing")),
        ((), {"modelspec.prediction_type": "epsilon"}, {}, ("epsilon", False, "leading")),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, {}, ("v_prediction", False, "leading")),
        ((), {}, {"prediction_type": "v_prediction"}, ("v_prediction", False, "leading")),
        (
            (),
            {},
            {"prediction_type": "v_prediction", "zero_terminal_snr": True},
            ("v_prediction", True, "trailing"),
        ),
        (("v_pred", "ztsnr"), {}, {"zero_terminal_snr": False}, ("v_prediction", False, "leading")),
    ],
)
def test_marks_of_the_prediction_set_the_scheduler(
    small_catalogue: Catalogue,
    tmp_path: Path,
    marks: tuple[str, ...],
    metadata: dict[str, str],
    fields: dict[str, object],
    expected: tuple[str, bool, str],
) -> None:
    config = _scheduler(small_catalogue, tmp_path, marks, metadata, **fields).config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == expected
    assert config.beta_schedule == "scaled_linear"


def test_an_entry_overrides_the_prediction_of_a_folder(small_catalogue: Catalogue) -> None:
    entry = small_catalogue.model(None)
    assert load_scheduler(entry).config.prediction_type == "epsilon"
    entry = entry.model_copy(update={"prediction_type": "v_prediction", "zero_terminal_snr": True})
    scheduler = load_scheduler(entry)
    assert scheduler.config.prediction_type == "v_prediction"
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert scheduler.sigmas[0] > 4000
