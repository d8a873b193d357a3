"""docs/cli.md: its commands print what the page says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Atelier, RunningServer

_PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
_ADDRESS = "http://127.0.0.1:8000"
_JOB = re.compile(r"job_[0-9a-f]+")
_TIMES = re.compile(r"\d+ s ago|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|[0-9a-f]{40,}")


def _examples() -> Iterator[tuple[str, str]]:
    """Each command of the page with its output."""
    for block in re.findall(r"```console\n(.*?)```", _PAGE.read_text(), flags=re.DOTALL):
        starts = [found.start() for found in re.finditer(r"^\$ atelier ", block, flags=re.MULTILINE)]
        for start, end in pairwise([*starts, len(block)]):
            command, _, output = block[start:end].partition("\n")
            yield command.removeprefix("$ atelier "), output


@pytest.mark.zoo
def test_the_commands_of_the_page_print_what_it_says(
    zoo_server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    atelier = Atelier(zoo_server.address)
    real_ids: dict[str, str] = {}
    for command, expected in _examples():
        for written, real in real_ids.items():
            command = command.replace(written, real)
        ran = atelier(*shlex.split(command))
        printed = ran.stdout.replace(zoo_server.address, _ADDRESS)
        assert (ran.exit_code, ran.stderr) == (0, ""), command
        real_ids |= zip(_JOB.findall(expected), _JOB.findall(printed), strict=True)
        shown, is_cut, _ = _same(expected).partition("\n...")
        assert (_same(printed)[: len(shown)] if is_cut else _same(printed)) == shown, command
    assert len(real_ids) == 2


def _same(output: str) -> str:
    """The output without what differs from run to run."""
    lines = _JOB.sub("job_…", _TIMES.sub("…", output)).splitlines()
    return "\n".join(line.rstrip() for line in lines)
