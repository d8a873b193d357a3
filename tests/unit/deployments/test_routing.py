"""The choice of a Denoiser for a request with LoRAs, on plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.routing import candidates

_RESIDENT = {"r1": ["a"], "r2": ["a", "b"], "r3": [], "r4": ["c"]}


def _candidates(*loras: str, num_requests: Mapping[str, int] | None = None) -> set[Sequence[str]]:
    """Every choice that is made in many draws."""
    lengths = dict.fromkeys(_RESIDENT, 0) | dict(num_requests or {})
    return {tuple(candidates(_RESIDENT, loras, lengths.__getitem__)) for _ in range(200)}


def test_a_replica_with_the_lora_is_preferred() -> None:
    assert _candidates("a") == {("r1",), ("r2",)}
    assert _candidates("c") == {("r4",)}


def test_a_replica_with_more_of_the_loras_is_preferred() -> None:
    assert _candidates("a", "b") == {("r2",)}
    assert _candidates("b", "c") == {("r2",), ("r4",)}


def test_without_a_replica_that_has_a_lora_none_is_preferred() -> None:
    assert _candidates("d") == {()}


def test_a_busy_replica_shares_a_hot_lora_with_any_other() -> None:
    assert _candidates("c", num_requests={"r4": 4}) == {("r4",)}
    assert _candidates("c", num_requests={"r4": 5}) == {("r4", "r1"), ("r4", "r2"), ("r4", "r3")}


def test_the_only_replica_is_chosen_however_busy_it_is() -> None:
    assert list(candidates({"r": ["a"]}, ["a"], lambda _: 100)) == ["r"]
