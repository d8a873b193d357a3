"""Calls of a step that run side by side."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.core.adapters import Lora
from atelier.core.control import Control
from atelier.core.denoising import DenoiseRequest, RequestId
from atelier.engine.engine import StepReport
from atelier.engine.side_by_side import SideBySide
from atelier.engine.splits import Splits
from atelier.models.loading import load_unet
from tests.engines import new_engine, run_in_one_batch, run_together
from tests.loras import add_lora, write_lora
from tests.small_models import CPU

_WAIT_S = 60


def test_calls_run_at_the_same_time_with_one_thread_each() -> None:
    both = threading.Barrier(2)

    def call(number: int) -> tuple[int, int]:
        both.wait(_WAIT_S)
        return number, torch.get_num_threads()

    assert SideBySide(2).map([partial(call, number) for number in (1, 2, 3, 4)]) == [(1, 1), (2, 1), (3, 1), (4, 1)]


def test_an_error_is_raised_when_all_calls_have_ended() -> None:
    ended = threading.Event()

    def call(fails: bool) -> None:
        if fails:
            raise MemoryError("no memory")
        ended.wait(0.2)
        ended.set()

    with pytest.raises(MemoryError, match="no memory"):
        SideBySide(2).map([partial(call, True), partial(call, False)])
    assert ended.is_set()


@pytest.fixture(scope="module")
def lora_files(small_catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    unet, folder = load_unet(small_catalogue.model(None), CPU), tmp_path_factory.mktemp("loras")
    files = {name: folder / f"{name}.safetensors" for name in ("a", "b")}
    for seed, (name, file) in enumerate(files.items()):
        add_lora(unet, name, rank=8, targets="all", seed=seed)
        write_lora(name, file, {"unet": unet})
    return files


def test_requests_in_calls_side_by_side_have_their_own_latents(
    small_catalogue: Catalogue,
    lora_files: Mapping[str, Path],
    request_: DenoiseRequest,
    reports: list[StepReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of one request, and requests with different LoRAs and controls, are in different calls."""
    random, size = np.random.default_rng(0), request_.pass_.size
    controls = [
        Control(
            controlnet=name,
            control_image=random.integers(0, 255, (size.height, size.width, 3), dtype=np.uint8),
            controlnet_conditioning_scale=1.0,
        )
        for name in ("small-canny", "small-depth")
    ]
    requests = [
        replace(
            request_,
            request_id=RequestId(f"req_{index}"),
            pass_=replace(request_.pass_, seeds=(index, index + 10), loras=tuple(Lora(name, 1.0) for name in loras)),
            controls=tuple(controls[first:]),
        )
        for index, (loras, first) in enumerate([((), 2), (("a",), 1), (("b",), 2), (("a", "b"), 0)])
    ]
    alone = new_engine(small_catalogue, find=lora_files.__getitem__)
    expected = [run_together(alone, [request])[0] for request in requests]
    alone.close()
    monkeypatch.setattr("atelier.engine.runner.fastest_splits", lambda *_: Splits({1: 1, 2: 2}))
    engine = new_engine(
        small_catalogue, num_threads=2, max_rows=100, observe=reports.append, find=lora_files.__getitem__
    )
    together = run_in_one_batch(engine, request_, requests)
    engine.close()
    assert max(report.num_requests for report in reports) == len(requests) + 1
    for ours, theirs in zip(together, expected, strict=True):
        assert np.abs(ours - theirs).max() < 5e-4 * np.abs(theirs).max()
