"""Previews of requests: decoded beside the steps where a model has a decoder, and passed on as latents elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.catalogue.catalogue import Catalogue
from atelier.catalogue.entries import Files, ModelEntry
from atelier.core.denoising import DecodedPreview, Denoised, DenoiseRequest, StepEvent
from atelier.core.errors import ModelUnavailable
from atelier.core.origin import Origin
from atelier.engine.request import Event
from atelier.local import previews as local_previews
from atelier.local.previews import Previews
from atelier.models.loading import Placement
from atelier.models.preview_decoder import PreviewDecoder
from tests.preview_decoders import with_decoder
from tests.small_models import CPU
from tests.unit.engine.requests import new_request

_WAIT_S = 20
_DENOISED = Denoised(np.zeros((1, 4, 4, 8), np.float32), Origin("place", {}), queue_s=0.0)


class _Events:
    """Records events and the threads that they come from; those of previews can be held up."""

    def __init__(self) -> None:
        self.received: list[Event | DecodedPreview] = []
        self.threads: list[str] = []
        self.decoded = threading.Semaphore(0)
        self.may_decode = threading.Event()
        self.may_decode.set()

    def emit(self, event: Event | DecodedPreview) -> None:
        if isinstance(event, DecodedPreview):
            self.decoded.release()
            assert self.may_decode.wait(_WAIT_S)
        self.received.append(event)
        self.threads.append(threading.current_thread().name)

    def wait(self, num_previews: int) -> None:
        for _ in range(num_previews):
            assert self.decoded.acquire(timeout=_WAIT_S)


@pytest.fixture
def catalogue(small_catalogue: Catalogue, tmp_path: Path) -> Catalogue:
    return with_decoder(small_catalogue, tmp_path / "decoder")


@pytest.fixture
def previews(catalogue: Catalogue) -> Iterator[Previews]:
    made = Previews(catalogue, CPU)
    yield made
    made.close()


def _request() -> DenoiseRequest:
    return replace(new_request(), num_previews=3)


def _step(step: int, red: float = 0.0) -> StepEvent:
    latents = np.zeros((1, 4, 4, 8), np.float32)
    latents[:, 0] = red
    return StepEvent(step, 4, latents)


def test_previews_follow_their_steps_in_order(previews: Previews) -> None:
    events = _Events()
    with previews.decoded(_request(), events.emit) as receive:
        for step in (1, 2, 3):
            receive(_step(step, red=float(step == 2)))
        events.wait(3)
        previews.close()
    steps = [event for event in events.received if isinstance(event, StepEvent)]
    assert steps == [StepEvent(step, 4) for step in (1, 2, 3)]
    decoded = [event for event in events.received if isinstance(event, DecodedPreview)]
    assert [event.step for event in decoded] == [1, 2, 3]
    assert [event.pixels.shape for event in decoded] == [(1, 32, 64, 3)] * 3
    assert [bool(event.pixels[..., 0].min() > 200) for event in decoded] == [False, True, False]
    assert all(events.received.index(StepEvent(one.step, 4)) < events.received.index(one) for one in decoded)


def test_a_preview_in_progress_holds_up_neither_steps_nor_the_end(previews: Previews) -> None:
    events = _Events()
    events.may_decode.clear()
    with previews.decoded(_request(), events.emit) as receive:
        receive(_step(1))
        events.wait(1)
        for step in (2, 3):
            receive(_step(step))
        receive(_DENOISED)
        assert events.received == [StepEvent(1, 4), StepEvent(2, 4), StepEvent(3, 4), _DENOISED]
        assert set(events.threads) == {threading.current_thread().name}
    events.may_decode.set()
    previews.close()
    assert [event.step for event in events.received if isinstance(event, DecodedPreview)] == [1]


def test_previews_of_other_requests_go_on_when_one_is_left(previews: Previews) -> None:
    first, second = _Events(), _Events()
    first.may_decode.clear()
    with previews.decoded(_request(), second.emit) as receive_second:
        with previews.decoded(_request(), first.emit) as receive_first:
            receive_first(_step(1))
            first.wait(1)
            receive_first(_step(2))
            receive_second(_step(3))
        first.may_decode.set()
        second.wait(1)
    previews.close()
    assert [event.step for event in second.received] == [3, 3]  # type: ignore[union-attr]
    assert [event.step for event in first.received] == [1, 2, 1]  # type: ignore[union-attr]


def test_previews_that_are_decoded_together_go_to_their_own_requests(previews: Previews) -> None:
    holding, red, black = _Events(), _Events(), _Events()
    holding.may_decode.clear()
    with (
        previews.decoded(_request(), holding.emit) as hold,
        previews.decoded(_request(), red.emit) as receive_red,
        previews.decoded(_request(), black.emit) as receive_black,
    ):
        hold(_step(1))
        holding.wait(1)
        two_images = np.concatenate([_step(2, red=1.0).preview, _step(2).preview])
        receive_red(StepEvent(2, 4, two_images))
        receive_black(_step(3))
        holding.may_decode.set()
        red.wait(1)
        black.wait(1)
    previews.close()
    [of_red], [of_black] = (
        [event for event in events.received if isinstance(event, DecodedPreview)] for events in (red, black)
    )
    assert (of_red.step, of_black.step) == (2, 3)
    assert [bool(image[..., 0].min() > 200) for image in of_red.pixels] == [True, False]
    assert [bool(image[..., 0].min() > 200) for image in of_black.pixels] == [False]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")
def test_previews_are_decoded_with_one_openmp_thread_that_gives_way(previews: Previews) -> None:
    seen = list[tuple[int, int]]()
    decoded = threading.Event()

    def emit(event: Event | DecodedPreview) -> None:
        if isinstance(event, DecodedPreview):
            niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            seen.append((niceness, torch.get_num_threads()))
            decoded.set()

    with previews.decoded(_request(), emit) as receive:
        receive(_step(1))
        assert decoded.wait(_WAIT_S)
    [(niceness, num_threads)] = seen
    assert niceness > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert num_threads == 1


def test_events_without_a_preview_pass_unchanged(previews: Previews) -> None:
    events = _Events()
    with previews.decoded(_request(), events.emit) as receive:
        receive(StepEvent(1, 4))
        receive(_DENOISED)
    assert events.received == [StepEvent(1, 4), _DENOISED]


def test_a_model_without_a_decoder_keeps_its_latents(small_catalogue: Catalogue) -> None:
    previews, events = Previews(small_catalogue, CPU), _Events()
    step = _step(1, red=1.0)
    with previews.decoded(_request(), events.emit) as receive:
        receive(step)
    previews.close()
    assert events.received == [step]


class _Log(logging.Handler):
    """Waits for records and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._logged = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._logged.release()

    def wait(self) -> None:
        assert self._logged.acquire(timeout=_WAIT_S)


@pytest.fixture
def log() -> Iterator[_Log]:
    handler = _Log()
    logger = logging.getLogger("atelier.local.previews")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_a_preview_that_fails_is_logged_and_costs_nothing_else(previews: Previews, log: _Log) -> None:
    events = _Events()
    broken = StepEvent(1, 4, np.zeros((1, 3, 4, 8), np.float32))
    with previews.decoded(_request(), events.emit) as receive:
        receive(broken)
        log.wait()
        receive(_step(2))
        events.wait(1)
    previews.close()
    assert [event.step for event in events.received] == [1, 2, 2]  # type: ignore[union-attr]
    [record] = log.records
    assert vars(record)["request_id"] == "req"
    assert "channels" in str(record.exc_info)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_decoder_that_cannot_be_loaded_ends_the_start(catalogue: Catalogue, is_there: bool) -> None:
    [model] = catalogue.models
    assert model.preview_decoder is not None
    assert model.preview_decoder.folder is not None
    weights = model.preview_decoder.folder / "diffusion_pytorch_model.safetensors"
    if is_there:
        weights.write_bytes(b"no weights")
    else:
        weights.unlink()
    with pytest.raises(ModelUnavailable, match=r"Model 'small-sdxl': cannot load .*decoder"):
        Previews(catalogue, CPU)


def test_models_that_name_the_same_files_share_a_decoder(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = list[str]()

    def load(model: str, files: Files, placement: Placement) -> PreviewDecoder:
        loaded.append(model)
        return PreviewDecoder(model, files, placement)

    monkeypatch.setattr(local_previews, "PreviewDecoder", load)
    [model] = catalogue.models
    both = catalogue.model_copy(update={"models": (model, model.model_copy(update={"id": "other"}))})
    previews = Previews(both, CPU)
    events, request = _Events(), _request()
    other = replace(request, pass_=replace(request.pass_, model="other"))
    with previews.decoded(other, events.emit) as receive:
        receive(_step(1))
        events.wait(1)
    previews.close()
    assert loaded == ["small-sdxl"]
    assert [type(event) for event in events.received] == [StepEvent, DecodedPreview]


def test_a_model_that_comes_later_shares_a_decoder(catalogue: Catalogue) -> None:
    [model] = catalogue.models
    late = model.model_copy(update={"id": "late"})
    found = list[ModelEntry]()
    previews = Previews(catalogue.only([model.id], model_readers=[lambda: found]), CPU)
    found.append(late)
    events, request = _Events(), _request()
    with previews.decoded(replace(request, pass_=replace(request.pass_, model="late")), events.emit) as receive:
        receive(_step(1))
        events.wait(1)
    previews.close()
    assert [type(event) for event in events.received] == [StepEvent, DecodedPreview]
