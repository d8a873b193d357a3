from __future__ import annotations

import pytest
import torch

from atelier.models import hashes
from atelier.models.hashes import place_hash, weights_hash
from atelier.models.loading import Placement


def _network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def test_precision_threads_and_rows_per_call_change_the_place() -> None:
    placements = [Placement("cpu", "float32"), Placement("cpu", "bfloat16"), Placement("cpu", "float16")]
    places = [place_hash(placement, num_threads=2, width=4) for placement in placements]
    places += [
        place_hash(placements[0], num_threads=1, width=4),
        place_hash(placements[0], num_threads=2, width=8),
    ]
    assert len(set(places)) == 5
    assert place_hash(Placement("cpu", "float32"), num_threads=2, width=4) == places[0]


def test_device_model_and_library_versions_change_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = Placement("cpu", "float32")
    here = place_hash(placement, num_threads=2, width=4)
    with monkeypatch.context() as other_cpu:
        other_cpu.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another CPU")
        on_other_cpu = place_hash(placement, num_threads=2, width=4)
    with monkeypatch.context() as other_libraries:
        other_libraries.setattr(hashes, "version", lambda _: "0.0.0")
        with_other_libraries = place_hash(placement, num_threads=2, width=4)
    assert len({here, on_other_cpu, with_other_libraries}) == 3


@pytest.mark.parametrize(
    ("owner", "name", "changed"),
    [
        (torch.cuda, "get_device_name", lambda: "another GPU"),
        (torch.version, "cuda", "0.1"),
        (torch.backends.cudnn, "version", lambda: 1),
        (torch.backends.cuda, "flash_sdp_enabled", lambda: False),
        (torch.backends.cpu, "get_cpu_capability", lambda: "another CPU"),
    ],
)
def test_a_gpu_its_libraries_and_its_cpu_change_the_place(
    owner: object, name: str, changed: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    placement = Placement("cuda", "float16")
    here = place_hash(placement, num_threads=2, width=4)
    assert place_hash(placement, num_threads=1, width=4) == here, "threads of the CPU do not count"
    monkeypatch.setattr(owner, name, changed)
    assert place_hash(placement, num_threads=2, width=4) != here


def test_equal_weights_have_equal_hashes_in_any_memory_layout() -> None:
    assert weights_hash(_network()) == weights_hash(_network().to(memory_format=torch.channels_last))  # type: ignore[call-overload]


def test_one_changed_bit_changes_the_hash() -> None:
    changed = _network()
    weight = changed[0].weight  # type: ignore[index]
    with torch.no_grad():
        weight.view(torch.int32).flatten()[0] ^= 1
    others = [_network(1), changed, _network().to(torch.bfloat16), torch.nn.Sequential(_network())]
    assert len({weights_hash(network) for network in [_network(), *others]}) == 5


def test_settings_change_the_hash_and_file_names_do_not() -> None:
    settings: list[dict[str, object]] = [
        {},
        {"scaling_factor": 1},
        {"scaling_factor": 2},
        {"scaling_factor": 2, "_name_or_path": "/here"},
    ]
    plain, one, two, elsewhere = [weights_hash(_network(), settings=each) for each in settings]
    assert len({plain, one, two}) == 3
    assert two == elsewhere
