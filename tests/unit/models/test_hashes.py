from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from atelier.models.hashes import place_hash, weights_hash
from atelier.models.loading import Placement


def _network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def test_equal_weights_have_equal_hashes_however_they_lie_in_memory() -> None:
    assert weights_hash(_network()) == weights_hash(_network().to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def test_one_bit_makes_another_hash() -> None:
    changed = _network()
    weight = changed[0].weight  # type: ignore[index]
    with torch.no_grad():
        weight.view(torch.int32).flatten()[0] ^= 1
    others = [_network(1), changed, _network().to(torch.bfloat16), torch.nn.Sequential(_network())]
    assert len({weights_hash(network) for network in [_network(), *others]}) == 5


def test_settings_make_another_hash_and_places_of_files_do_not() -> None:
    settings: list[dict[str, object]] = [
        {},
        {"scaling_factor": 1},
        {"scaling_factor": 2},
        {"scaling_factor": 2, "_name_or_path": "/here"},
    ]
    plain, one, two, elsewhere = [weights_hash(_network(), settings=each) for each in settings]
    assert len({plain, one, two}) == 3
    assert two == elsewhere


def test_place_hash_depends_on_all_that_bits_depend_on() -> None:
    float32 = Placement("cpu", "float32")
    places = [
        place_hash(float32, num_threads=1, width=4),
        place_hash(float32, num_threads=2, width=4),
        place_hash(float32, num_threads=1, width=8),
        place_hash(Placement("cpu", "bfloat16"), num_threads=1, width=4),
    ]
    assert len(set(places)) == 4
    assert place_hash(float32, num_threads=1, width=4) == places[0]


@pytest.mark.parametrize("library", ["diffusers", "numpy", "pillow", "torch", "transformers"])
def test_place_hash_depends_on_the_version_of_each_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place_hash(Placement("cpu", "float32"), num_threads=1, width=1)
    monkeypatch.setattr("atelier.models.hashes.version", lambda name: "0" if name == library else version(name))
    assert place_hash(Placement("cpu", "float32"), num_threads=1, width=1) != before
