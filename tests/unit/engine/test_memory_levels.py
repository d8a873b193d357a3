"""UNets that are streamed block by block: the bits of whole ones, with less in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files
from atelier.core.adapters import Lora
from atelier.core.conditioning import Floats
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.core.errors import ModelUnavailable
from atelier.core.origin import Origin
from atelier.core.sampling import Reproducibility
from atelier.engine.engine import Engine
from atelier.engine.runners import load_runners
from atelier.models.host import HostStatus, ModelHost
from atelier.models.loading import DtypeName, Placement, load_unet
from atelier.models.memory import Memory, MemoryLevel
from tests.engines import SETTINGS, run_together
from tests.loras import add_lora, write_lora
from tests.single_file import write_single_file
from tests.small_models import CPU

_STREAMED: tuple[MemoryLevel, ...] = ("sequential", "aggressive")
_UNET = "unet/diffusion_pytorch_model.safetensors"


def _run(
    catalogue: Catalogue,
    requests: Sequence[DenoiseRequest],
    level: MemoryLevel,
    *,
    dtype: DtypeName = "float32",
    files: dict[str, Path] | None = None,
    budget: float | None = None,
) -> tuple[list[Floats], Origin, HostStatus]:
    """Run requests in an engine; return their latents, the engine's origin, and what its host held."""
    memory = Memory(level=level) if budget is None else Memory(level=level, device_bytes=budget)
    placement = Placement("cpu", dtype, memory)
    host = ModelHost(placement)
    engine = Engine(
        lambda: load_runners(catalogue.models, placement, host=host, find_lora=(files or {}).__getitem__),
        SETTINGS,
        place="here",
    )
    latents = run_together(engine, requests)
    origin = engine.origin()
    engine.close()
    return latents, origin, host.status()


def _requests(request: DenoiseRequest, reproducibility: Reproducibility) -> list[DenoiseRequest]:
    return [
        replace(
            request,
            request_id=RequestId(f"r{seed}"),
            pass_=replace(request.pass_, seeds=(seed,), reproducibility=reproducibility),
        )
        for seed in range(2)
    ]


def _sizes_of_blocks(catalogue: Catalogue) -> dict[str, int]:
    """Return the bytes of each resnet, transformer, sampler and outer layer of the UNet in its file, in float32."""
    folder = catalogue.model(None).files.folder
    assert folder is not None
    sizes: dict[str, int] = {}
    with safe_open(folder / _UNET, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 no mapping
            parts = name.split(".")
            length = {"down_blocks": 4, "up_blocks": 4, "mid_block": 3}.get(parts[0], 1)
            block = ".".join(parts[:length])
            sizes[block] = sizes.get(block, 0) + file.get_tensor(name).numel() * 4
    return sizes


@pytest.mark.parametrize(
    ("level", "dtype"), [("sequential", "float32"), ("aggressive", "float32"), ("sequential", "bfloat16")]
)
def test_a_streamed_unet_gives_the_bits_of_a_whole_one(
    small_catalogue: Catalogue, request_: DenoiseRequest, level: MemoryLevel, dtype: DtypeName
) -> None:
    requests = _requests(request_, "exact")
    whole, origin, _ = _run(small_catalogue, requests, "none", dtype=dtype)
    streamed, streamed_origin, _ = _run(small_catalogue, requests, level, dtype=dtype)
    for expected, latents in zip(whole, streamed, strict=True):
        assert np.isfinite(latents).all()
        assert np.array_equal(latents, expected)
    assert streamed_origin == origin


def test_at_most_two_blocks_are_in_memory_and_at_most_one_if_none_is_brought_ahead(
    small_catalogue: Catalogue, request_: DenoiseRequest
) -> None:
    sizes = sorted(_sizes_of_blocks(small_catalogue).values())
    peaks = {}
    for level in _STREAMED:
        _, _, status = _run(small_catalogue, [request_], level)
        peaks[level] = status.peak_device_bytes
        assert status.models == ("small-sdxl",)
    assert peaks["aggressive"] == sizes[-1]
    assert sizes[-1] < peaks["sequential"] <= sizes[-1] + sizes[-2]
    assert peaks["sequential"] < sum(sizes) / 2


def test_a_budget_for_the_largest_block_and_activations_is_enough(
    small_catalogue: Catalogue, request_: DenoiseRequest
) -> None:
    [largest, *_] = sorted(_sizes_of_blocks(small_catalogue).values(), reverse=True)
    [expected], *_ = _run(small_catalogue, [request_], "none")
    _, _, roomy = _run(small_catalogue, [request_], "aggressive", budget=2**30)
    budget = roomy.peak_device_bytes
    assert budget > largest, "the room for activations counts, too"
    for level in _STREAMED:
        [latents], _, status = _run(small_catalogue, [request_], level, budget=budget)
        assert status.peak_device_bytes <= budget
        assert np.array_equal(latents, expected)


def test_a_checkpoint_in_a_single_file_is_streamed_like_a_folder(
    small_catalogue: Catalogue, request_: DenoiseRequest, tmp_path: Path
) -> None:
    model = small_catalogue.model(None)
    assert model.files.folder is not None
    file = write_single_file(model.files.folder, tmp_path / "small.safetensors")
    entry = model.model_copy(update={"files": Files(file=file, config=Files(folder=model.files.folder))})
    [expected], origin, _ = _run(small_catalogue, [request_], "none")
    [latents], streamed, _ = _run(Catalogue(models=(entry,)), [request_], "aggressive")
    assert np.array_equal(latents, expected)
    assert streamed == origin


def test_a_budget_below_the_largest_block_is_refused_at_the_start(
    small_catalogue: Catalogue, request_: DenoiseRequest
) -> None:
    [largest, *_] = sorted(_sizes_of_blocks(small_catalogue).values(), reverse=True)
    with pytest.raises(ModelUnavailable, match=r"small-sdxl/unet#.* Raise `memory_gib`"):
        _run(small_catalogue, [request_], "aggressive", budget=largest - 1)


@pytest.mark.parametrize(("level", "targets"), [("sequential", "all"), ("aggressive", "attention")])
def test_loras_change_a_streamed_unet_as_they_change_a_whole_one(
    small_catalogue: Catalogue, request_: DenoiseRequest, tmp_path: Path, level: MemoryLevel, targets: str
) -> None:
    unet = load_unet(small_catalogue.model(None), CPU)
    add_lora(unet, "style", rank=8, targets=targets, seed=1)
    file = tmp_path / "style.safetensors"
    write_lora("style", file, {"unet": unet})
    plain, other = _requests(request_, "exact")
    styled = replace(plain, pass_=replace(plain.pass_, loras=(Lora("style", 0.9),)))
    requests = [styled, replace(other, request_id=RequestId("plain"))]
    whole, *_ = _run(small_catalogue, requests, "none", files={"style": file})
    streamed, *_ = _run(small_catalogue, requests, level, files={"style": file})
    assert np.array_equal(streamed, whole)
    without, *_ = _run(small_catalogue, [plain], level)
    assert not np.allclose(without[0], streamed[0], atol=1e-3)
