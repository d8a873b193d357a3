from __future__ import annotations

import torch

from atelier.core.origin import Origin, exactness_key
from atelier.models.hashes import weights_hash


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


def test_the_exactness_key_knows_places_and_weights() -> None:
    origins = [
        [Origin("here", {"a": "1"}), Origin("here")],
        [Origin("here"), Origin("here", {"a": "1"})],
        [Origin("here", {"a": "2"}), Origin("here")],
        [Origin("there", {"a": "1"}), Origin("here")],
    ]
    assert len({exactness_key(of_request) for of_request in origins}) == 4
    assert exactness_key([Origin("x"), Origin("x")]) == exactness_key([Origin("x")])
    assert exactness_key([Origin("x", {"a": "1", "b": "2"})]) == exactness_key([Origin("x", {"b": "2", "a": "1"})])
