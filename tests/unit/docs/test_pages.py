"""Pages agree with the code: generated ones are up to date, links have targets, quoted messages exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from atelier.catalogue.capabilities import CAPABILITIES
from atelier.catalogue.catalogue import read_catalogue
from atelier.core.denoising import RequestId
from atelier.core.errors import NotSupported
from atelier.core.geometry import Size
from atelier.core.params import GenerateParams, parse
from atelier.pipeline.record import RequestRecord, StageName

_ROOT = Path(__file__).parents[3]
_DOCS = _ROOT / "docs"
_PAGES = sorted(
    [*_ROOT.glob("*.md"), *_DOCS.rglob("*.md"), _ROOT / "zoo" / "README.md"], key=lambda page: page.as_posix()
)
_GENERATED = ("configuration.md", "errors.md", "metrics.md", "parameters.md")


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "docs.generate", "--check", "--folder", str(folder)]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_generated_pages_are_up_to_date() -> None:
    checked = _check(_DOCS)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.slow
def test_changed_pages_are_out_of_date(tmp_path: Path) -> None:
    for name in _GENERATED:
        text = (_DOCS / name).read_text()
        (tmp_path / name).write_text(text.replace("|", "/", 1))
    checked = _check(tmp_path)
    reports = {f"{name} is out of date; run python -m docs.generate" for name in _GENERATED}
    assert (checked.returncode, set(checked.stderr.splitlines())) == (1, reports)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(_ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not heading or heading in _headings(file), target


def _headings(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_listed() -> None:
    index = (_DOCS / "decisions" / "README.md").read_text()
    listed = re.findall(r"\]\(([\w-]+\.md)\)", index)
    written = {page.name for page in (_DOCS / "decisions").glob("*.md")} - {"README.md"}
    assert len(listed) == len(set(listed))
    assert set(listed) == written


def _source() -> str:
    """The code, with adjacent string literals joined, because they are one message."""
    source = "\n".join(
        file.read_text() for room in ("atelier", "deployments") for file in (_ROOT / room).rglob("*.py")
    )
    return re.sub(r'"\s*f?"', "", source)


@pytest.mark.parametrize(("name", "num_parts"), [("loras.md", 12), ("models.md", 10)])
def test_reasons_why_a_file_is_refused_are_those_of_the_code(name: str, num_parts: int) -> None:
    page = (_DOCS / name).read_text().partition("## What is refused")[2].partition("## Errors")[0]
    cells = re.findall(r"^\| (`.+?) \|", page, flags=re.MULTILINE)
    parts = [part.strip() for reason in re.findall(r"`([^`]+)`", " ".join(cells)) for part in reason.split("…")]
    assert len(parts) > num_parts
    code = _source()
    assert [part for part in parts if part.strip(".:") not in code] == []


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    joined = _source()
    foreign = ("Deployment 'ControlNet' does not exist.", "Extra inputs are not permitted", '{"status":"not ready"}')
    page = (_DOCS / "troubleshooting.md").read_text().partition("## No message")[0]
    messages = [
        message
        for row in re.findall(r"^\| (`.+?) \|", page, flags=re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        if message not in foreign and not message.startswith("GET ")
    ]
    assert len(messages) > 20
    missing = [
        part.strip()
        for message in messages
        for part in message.split("…")
        if part.strip(" .,:;") and part not in joined
    ]
    assert missing == []


def test_fields_that_are_not_built_are_those_of_the_page() -> None:
    page = (_DOCS / "http.md").read_text()
    listed = re.search(r"known but not built yet \(([^)]+)\)", page)
    assert listed is not None
    for name in re.findall(r"`(\w+)`", listed[1]):
        with pytest.raises(NotSupported):
            parse(GenerateParams, {"prompt": "a red circle", name: ["something"]})


def test_the_entry_of_another_checkpoint_is_a_catalogue(tmp_path: Path) -> None:
    [entry] = re.findall(r"```yaml\n(.*?)```", (_DOCS / "adding-a-model.md").read_text(), flags=re.DOTALL)
    (tmp_path / "catalogue.yaml").write_text(entry)
    [model] = read_catalogue(tmp_path / "catalogue.yaml").models
    assert model.family == "sd15"


def test_capabilities_are_those_of_the_page() -> None:
    page = (_DOCS / "adding-a-model.md").read_text()
    listed = re.search(r"what it can do: (.+?)\.", page, flags=re.DOTALL)
    assert listed is not None
    assert tuple(re.findall(r"`(\w+)`", listed[1])) == CAPABILITIES


def test_fields_of_a_request_in_the_log_are_those_of_the_page() -> None:
    record = RequestRecord(
        request_id=RequestId("a"),
        endpoint="handle generate",
        code="busy",
        model="tiny-sdxl",
        size=Size(width=64, height=64),
        num_images=1,
        num_steps=20,
        num_repeats=1,
        shared_with=RequestId("b"),
        is_cached=True,
    )
    record.stage_s.update(dict.fromkeys(get_args(StageName), 1.0))
    page = (_DOCS / "watching.md").read_text().partition("| field | meaning |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.+?) \|", page, flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(cells))) == sorted(record.fields())
