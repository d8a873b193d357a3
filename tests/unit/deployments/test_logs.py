"""Our log lines go through Serve's logger."""

from __future__ import annotations

import logging

import pytest

from deployments.logs import log_to_serve


class _Records(logging.Handler):
    """Serve's handler, which keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def serve() -> _Records:
    handler = _Records()
    logger = logging.getLogger("ray.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    return handler


@pytest.mark.parametrize("name", ["atelier.engine.engine", "deployments.limits"])
def test_lines_reach_serves_handlers_whole_with_their_level_and_fields(serve: _Records, name: str) -> None:
    log_to_serve()
    log_to_serve()
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger(name).exception("two\nlines", extra={"request_id": "req_1"})
    [record] = serve.records
    assert (record.levelname, record.getMessage(), vars(record)["request_id"]) == ("ERROR", "two\nlines", "req_1")
    assert record.exc_info is not None


def test_serves_level_decides(serve: _Records) -> None:
    log_to_serve()
    ours = logging.getLogger("atelier.pipeline.record")
    ours.debug("not asked for")
    ours.info("a request")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ours.warning("not asked for")
    assert [record.getMessage() for record in serve.records] == ["a request"]


def test_handlers_that_serve_sets_later_are_used(serve: _Records) -> None:
    log_to_serve()
    later = _Records()
    logging.getLogger("ray.serve").handlers = [later]
    logging.getLogger("atelier").info("now")
    assert ([record.getMessage() for record in later.records], serve.records) == (["now"], [])
