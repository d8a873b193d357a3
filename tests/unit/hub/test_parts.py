"""The names of files are those that diffusers and transformers write."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from atelier.catalogue.catalogue import Catalogue
from atelier.hub.parts import TEXT_ENCODER, UNET, Part
from atelier.models.files import sources


def _write_in_shards(catalogue: Catalogue, part: Part, folder: Path, variant: str | None) -> list[str]:
    """Save the part of the small model in several files; returns their names, relative to the repository."""
    small = catalogue.model(None).files.folder
    assert small is not None
    library = UNet2DConditionModel if part is UNET else CLIPTextModel
    module = library.from_pretrained(str(small / part.folder))
    module.save_pretrained(folder / part.folder, max_shard_size="100KB", variant=variant)
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


@pytest.mark.parametrize("part", [UNET, TEXT_ENCODER], ids=lambda part: part.folder)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_needed_whole(
    small_catalogue: Catalogue, tmp_path: Path, part: Part, variant: str | None
) -> None:
    names = _write_in_shards(small_catalogue, part, tmp_path, variant)
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    assert len(shards) > 1
    patterns = part.patterns(variant)
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    assert part.missing(tmp_path, variant) is None
    (tmp_path / shards[1]).unlink()
    assert part.missing(tmp_path, variant) == shards[1]


@pytest.mark.parametrize(
    "name",
    [
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors",
    ],
)
def test_pickles_other_variants_and_other_parts_are_left_out(name: str) -> None:
    assert not any(fnmatch(name, pattern) for pattern in UNET.patterns(None))


def test_a_model_needs_the_text_encoders_of_its_family(two_families: Catalogue) -> None:
    folders = {
        source.entry: {part.folder for part in source.parts if "text" in part.folder or "token" in part.folder}
        for source in sources(two_families.model_copy(update={"controlnets": (), "annotators": ()}))
    }
    assert folders == {
        "Model 'small-sdxl'": {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"},
        "Model 'small-sd15'": {"text_encoder", "tokenizer"},
    }
