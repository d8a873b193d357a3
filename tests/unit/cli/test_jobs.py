"""`atelier jobs`: lists, and single jobs."""

from __future__ import annotations

from pathlib import Path

from tests.pictures import encoded, noise
from tests.unit.cli.conftest import Atelier, RunningServer

_QUICK = ("--steps", "2", "--size", "64x32", "--seed", "5")


def _detached(atelier: Atelier, *arguments: str) -> str:
    return atelier(*arguments, "--detach").stdout.strip()


def test_jobs_are_listed_and_filtered(atelier: Atelier, server: RunningServer) -> None:
    Path("in.png").write_bytes(encoded(noise(32, 16)))
    server.hold()
    first = _detached(atelier, "generate", "x", *_QUICK)
    second = _detached(atelier, "upscale", "in.png")
    third = _detached(atelier, "generate", "x", *_QUICK, "--priority", "batch")
    headings, *rows = atelier("jobs").stdout.splitlines()
    assert headings.split()[:4] == ["ID", "OPERATION", "STATE", "PRIORITY"]
    assert [row.split()[0] for row in rows] == [third, second, first]
    assert [row.split()[1:4] for row in rows] == [
        ["generate", "queued", "batch"],
        ["upscale", "queued", "standard"],
        ["generate", "running", "standard"],
    ]
    assert rows[0].endswith("1 before it")

    def listed(*options: str) -> list[str]:
        return [row.split()[0] for row in atelier("jobs", *options).stdout.splitlines()[1:]]

    assert listed("--operation", "upscale") == [second]
    assert listed("--state", "running") == [first]
    assert listed("--limit", "1") == [third]
    wrong = atelier("jobs", "--state", "lost")
    assert (wrong.exit_code, wrong.stdout) == (1, "")


def test_a_job_is_shown_with_its_images(atelier: Atelier, server: RunningServer) -> None:
    atelier("generate", "x", *_QUICK)
    [job] = server.jobs()
    shown = dict(line.split("  ", 1) for line in atelier("jobs", "show", job["id"]).stdout.splitlines())
    facts = {name: text.strip() for name, text in shown.items()}
    assert facts["image 1"] == job["result"]["data"][0]["url"]
    assert (facts["id"], facts["state"], facts["progress"]) == (job["id"], "succeeded", "2/2 steps")


def test_a_job_is_cancelled_unless_it_has_ended(atelier: Atelier, server: RunningServer) -> None:
    server.hold()
    _detached(atelier, "generate", "x", *_QUICK)
    queued = _detached(atelier, "generate", "x", *_QUICK)
    cancelled = atelier("jobs", "cancel", queued)
    assert (cancelled.exit_code, cancelled.stdout) == (0, "")
    assert [job["id"] for job in server.jobs(state="cancelled")] == [queued]
    server.go_on()
    atelier("generate", "x", *_QUICK)
    [job] = server.jobs(limit="1")
    ran = atelier("jobs", "cancel", job["id"])
    assert (ran.exit_code, ran.stderr) == (1, f"{job['id']} has succeeded already.\n")
