from __future__ import annotations

from atelier.engine.policy import admissible, next_key


def _admitted(waiting: list[tuple[str, int]], in_work: dict[str, int]) -> list[tuple[str, int]]:
    return list(
        admissible(
            waiting, in_work, key_of=lambda request: request[0], rows_of=lambda request: request[1], max_rows=8
        )
    )


def test_the_key_that_waited_longest_is_next() -> None:
    assert next_key({"a": 7, "b": 3, "c": 5}) == "b"
    assert next_key({}) is None


def test_requests_are_admitted_until_their_key_is_full() -> None:
    assert _admitted([("a", 4), ("a", 4), ("a", 1)], {}) == [("a", 4), ("a", 4)]
    assert _admitted([("a", 4)], {"a": 6}) == []


def test_nobody_overtakes_within_a_key_but_other_keys_go_on() -> None:
    assert _admitted([("a", 6), ("a", 4), ("a", 1), ("b", 2)], {}) == [("a", 6), ("b", 2)]


def test_a_request_wider_than_a_batch_gets_one_of_its_own() -> None:
    assert _admitted([("a", 20), ("a", 1)], {}) == [("a", 20)]
    assert _admitted([("a", 20)], {"a": 1}) == []
