"""Upscalers: layouts of the published files, tiles without seams, and the fallback without weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import UpscalerEntry
from atelier.core.errors import ModelUnavailable
from atelier.core.geometry import Size
from atelier.imaging.tiles import tiles
from atelier.models.convert_upscaler import convert, local_copy, main
from atelier.models.esrgan import Network, RRDBNet, SRVGGNetCompact, network_from
from atelier.models.thread import result_of
from atelier.models.upscaler import Upscaler, Upscalers, UpscaleTask, is_small
from tests.small_models import CPU


def _rrdb_file(*, num_blocks: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Names and shapes of RealESRGAN_x4plus (23 blocks), …_anime_6B (6) and x2plus (23, 12 channels)."""
    convolutions = {"conv_first": (64, channels), "conv_last": (3, 64)}
    convolutions |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (64, 64))
    for block in range(num_blocks):
        for dense in (1, 2, 3):
            for index in range(1, 6):
                shape = (64 if index == 5 else 32, 64 + 32 * (index - 1))
                convolutions[f"body.{block}.rdb{dense}.conv{index}"] = shape
    return _with_kernels(convolutions)


def _compact_file(*, num_convolutions: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of realesr-general-x4v3 (32 convolutions between the first and the last)."""
    convolutions = {"body.0": (64, 3), f"body.{2 * num_convolutions + 2}": (48, 64)}
    convolutions |= {f"body.{2 * index}": (64, 64) for index in range(1, num_convolutions + 1)}
    slopes: dict[str, tuple[int, ...]] = {f"body.{2 * i + 1}.weight": (64,) for i in range(num_convolutions + 1)}
    return {**_with_kernels(convolutions), **slopes}


def _with_kernels(convolutions: dict[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in convolutions.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (*shape, 3, 3), shape[:1]
    return shapes


@pytest.mark.parametrize(
    ("shapes", "kind", "scale"),
    [
        pytest.param(_rrdb_file(num_blocks=23), RRDBNet, 4, id="x4plus", marks=pytest.mark.slow),
        pytest.param(_rrdb_file(num_blocks=6), RRDBNet, 4, id="x4plus_anime_6B"),
        pytest.param(_rrdb_file(num_blocks=23, channels=12), RRDBNet, 2, id="x2plus", marks=pytest.mark.slow),
        pytest.param(_rrdb_file(num_blocks=2, channels=12), RRDBNet, 2, id="x2plus with fewer blocks"),
        pytest.param(_compact_file(num_convolutions=32), SRVGGNetCompact, 4, id="general-x4v3"),
    ],
)
def test_published_layouts_are_recognised_by_their_keys(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], kind: type[Network], scale: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {key: 0.02 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    torch.save({"params_ema": weights}, tmp_path / "published.pth")
    convert(tmp_path / "published.pth", tmp_path / "safe.safetensors")
    network = network_from(load_file(tmp_path / "safe.safetensors"))
    assert isinstance(network, kind)
    assert all(torch.equal(network.state_dict()[key], weight) for key, weight in weights.items())
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 8, 12)).shape == (1, 3, 8 * scale, 12 * scale)


def test_a_published_file_behind_a_url_is_converted_into_a_new_folder(tmp_path: Path) -> None:
    weights = {key: torch.zeros(shape) for key, shape in _compact_file(num_convolutions=1).items()}
    torch.save(weights, tmp_path / "published.pth")
    target = tmp_path / "upscalers" / "x4.safetensors"
    with local_copy((tmp_path / "published.pth").as_uri()) as copy:
        assert copy.parent != tmp_path
        convert(copy, target)
    assert load_file(target).keys() == weights.keys()
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_is_converted_already_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x4.safetensors").write_text("converted before")
    arguments = ["convert_upscaler", "https://example.invalid/x4.pth", str(tmp_path / "x4.safetensors")]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    assert (tmp_path / "x4.safetensors").read_text() == "converted before"


def test_other_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RRDBNet"):
        network_from({"weight": torch.zeros(1)})
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(pickle.UnpicklingError):
        convert(tmp_path / "evil.pth", tmp_path / "out.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelUnavailable, match="broken"):
        Upscalers([_entry(tmp_path / "broken.safetensors")], CPU)


def _entry(file: Path) -> UpscalerEntry:
    return UpscalerEntry(id="some", description="", licence="", file=file)


@pytest.mark.parametrize("side", [1, 63, 64, 65, 100, 128, 129, 1000])
def test_tiles_cover_a_side_once_with_their_overlap(side: int) -> None:
    made = list(tiles(side, tile=64, overlap=16))
    assert [position for tile in made for position in range(tile.kept_start, tile.kept_end)] == list(range(side))
    for tile in made:
        assert 0 <= tile.start <= tile.kept_start < tile.kept_end <= tile.end <= side
        assert tile.start == 0 or tile.kept_start - tile.start >= 16
        assert tile.end == side or tile.end - tile.kept_end >= 16
        assert tile.end - tile.start == min(side, 64)


def _psnr_db(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> float:
    mse = np.square(ours.astype(float) - theirs).mean()
    return float("inf") if mse == 0 else 10 * float(np.log10(255**2 / mse))


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        RRDBNet(scale=4, features=16, growth=8, num_blocks=4),
        RRDBNet(scale=2, features=16, growth=8, num_blocks=4),
        SRVGGNetCompact(scale=4, features=16, num_convolutions=8),
    ],
    ids=["x4", "x2", "compact"],
)
def test_tiles_leave_no_seams(network: Network) -> None:
    smooth = np.random.default_rng(0).random((9, 12, 3))
    picture = (255 * np.kron(smooth, np.ones((16, 16, 1)))).astype(np.uint8)[:141, :190]
    whole = result_of(Upscaler(network, CPU, tile_px=1000).upscale([picture]))[0]
    tiled = result_of(Upscaler(network, CPU, tile_px=96).upscale([picture]))[0]
    assert whole.shape == (141 * network.scale, 190 * network.scale, 3)
    assert _psnr_db(tiled, whole) >= 50
    steps = np.abs(np.diff(tiled.astype(float), axis=1)).mean(axis=(0, 2))
    steps_of_whole = np.abs(np.diff(whole.astype(float), axis=1)).mean(axis=(0, 2))
    seams = [tile.kept_start * network.scale - 1 for tile in tiles(190, tile=96, overlap=24)][1:]
    assert seams
    assert steps[seams].mean() <= 1.05 * steps_of_whole[seams].mean() + 0.01


def test_tiles_overlap_by_24_pixels() -> None:
    """Every convolution of this network reads the pixel on its left, so an output pixel depends on one 24 away."""
    network = SRVGGNetCompact(scale=2, features=3, num_convolutions=22)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.PReLU):
                module.weight.fill_(1)
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
                module.weight[:, 0, 1, 0] = 1
                assert module.bias is not None
                module.bias.zero_()
    noise = np.random.default_rng(0).integers(0, 100, (40, 300, 3), dtype=np.uint8)
    [whole] = result_of(Upscaler(network, CPU, tile_px=1000).upscale([noise]))
    [tiled] = result_of(Upscaler(network, CPU, tile_px=96).upscale([noise]))
    assert np.array_equal(tiled, whole)


@pytest.mark.slow
def test_seams_are_no_steeper_than_the_rest() -> None:
    """Neighbouring pixels of enlarged noise differ equally everywhere, so seams would stand out."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    upscaler = Upscaler(SRVGGNetCompact(scale=2, features=16, num_convolutions=8), CPU, tile_px=96)
    [large] = result_of(upscaler.upscale([noise]))
    steps = np.abs(np.diff(large.astype(float), axis=1)).mean(axis=(0, 2))
    seams = [tile.kept_start * 2 - 1 for tile in tiles(400, tile=96, overlap=24)][1:]
    # Differences across the border between two input pixels, where seams lie, too.
    others = [position for position in range(1, len(steps), 2) if position not in seams]
    assert len(seams) == 7
    assert steps[seams].mean() <= 1.05 * steps[others].mean()


def test_images_share_calls_and_nothing_else() -> None:
    network = SRVGGNetCompact(scale=4, features=16, num_convolutions=4)
    rng = np.random.default_rng(0)
    sides = [(40, 56), (40, 56), (64, 64), (40, 56), (300, 200), (39, 54)]
    pictures = [rng.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]
    num_tiles: list[int] = []
    network.register_forward_pre_hook(lambda _, x: num_tiles.append(len(x[0])))
    upscaler = Upscaler(network, CPU)
    together = result_of(upscaler.upscale(pictures))
    assert sorted(num_tiles) == [1, 4, 4]
    for picture, large in zip(pictures, together, strict=True):
        [alone] = result_of(upscaler.upscale([picture]))
        assert large.shape == alone.shape == (4 * picture.shape[0], 4 * picture.shape[1], 3)
        assert np.abs(large.astype(int) - alone).max() <= 1
    assert [is_small(picture) for picture in pictures] == [True, True, True, True, False, True]


def test_upscaler_without_weights_is_reported_as_bicubic(tmp_path: Path) -> None:
    upscalers = Upscalers([_entry(tmp_path / "nowhere.safetensors")], CPU)
    picture = np.zeros((8, 12, 4), dtype=np.uint8)
    picture[:, 6:] = 255
    for name in ("some", None):
        [(large, upscaler)] = result_of(upscalers.upscale([UpscaleTask(name, picture, Size(width=30, height=20))]))
        assert upscaler == "bicubic"
        assert upscalers.weights(upscaler) == {}
        assert large.shape == (20, 30, 4)
        assert large[10, 0].tolist() == [0, 0, 0, 0]
        assert large[10, 29].tolist() == [255, 255, 255, 255]


def test_tasks_keep_their_order_upscaler_and_size(small_catalogue: Catalogue) -> None:
    upscalers = Upscalers(small_catalogue.upscalers, CPU)
    random = np.random.default_rng(0)
    tasks = [
        UpscaleTask(name, random.integers(0, 256, (height, width, 3), dtype=np.uint8), size)
        for name, height, width, size in [
            ("tiny-x4", 16, 24, Size(width=96, height=64)),
            (None, 16, 24, Size(width=50, height=30)),
            ("tiny-x4", 20, 16, Size(width=40, height=50)),
        ]
    ]
    results = result_of(upscalers.upscale(tasks))
    assert [upscaler for _, upscaler in results] == ["tiny-x4", "bicubic", "tiny-x4"]
    for task, (pixels, upscaler) in zip(tasks, results, strict=True):
        assert pixels.shape == (task.size.height, task.size.width, 3)
        [(alone, _)] = result_of(upscalers.upscale([task]))
        assert np.abs(pixels.astype(int) - alone).max() <= 1
        assert set(upscalers.weights(upscaler)) == ({"tiny-x4"} if upscaler == "tiny-x4" else set())
