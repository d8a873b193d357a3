"""Jobs on the terminal, Ctrl-C, and connections that break."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx2
import pytest
from starlette.types import Message

from cli import patience
from tests.unit.cli.conftest import Atelier, RunningServer
from tests.unit.cli.processes import on_terminal

_QUICK = ("--steps", "3", "--size", "64x32", "--seed", "5")
_MADE = (0, "small-sdxl-5.png\n")


def test_the_terminal_shows_the_queue_and_then_the_steps(
    atelier: Atelier, server: RunningServer, tmp_path: Path
) -> None:
    server.hold()
    running, before = (atelier("generate", "x", *_QUICK, "--detach").stdout.strip() for _ in range(2))
    with on_terminal(server.address, tmp_path, "generate", "x", *_QUICK) as command:
        command.wait_until_shown(r"queued .*1 before it")
        atelier("jobs", "cancel", before)
        command.wait_until_shown(r"queued .*0 before it")
        server.hold_after_a_step()
        atelier("jobs", "cancel", running)
        command.wait_until_shown(r"running ━+╺━+ 1/3 steps, \d+ s gone, \d+ s left")
        assert "queued" not in command.shown.partition("running")[2]
        server.go_on()
        assert command.finish() == _MADE


def test_ctrl_c_cancels_the_job(server: RunningServer, tmp_path: Path) -> None:
    server.hold()
    with on_terminal(server.address, tmp_path, "generate", "x", *_QUICK) as command:
        command.wait_until_shown("running")
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == (130, "")
        [job] = server.jobs()
        command.wait_until_shown(f"Cancelled {job['id']}")
    server.go_on()
    assert _ended(server, job["id"])["state"] == "cancelled"


def test_ctrl_c_cancels_a_job_whose_answer_is_lost(server: RunningServer, tmp_path: Path) -> None:
    server.hold()
    server.breaking.breaks.append(lambda method, _, message: method == "POST" and "body" in message)
    with on_terminal(server.address, tmp_path, "generate", "x", *_QUICK) as command:
        command.wait_until_shown("Trying again")
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == (130, "")
    [job] = server.jobs()
    server.go_on()
    assert _ended(server, job["id"])["state"] == "cancelled"


def test_ctrl_c_leaves_a_job_that_is_only_watched(atelier: Atelier, server: RunningServer, tmp_path: Path) -> None:
    server.hold()
    job_id = atelier("generate", "x", *_QUICK, "--detach").stdout.strip()
    with on_terminal(server.address, tmp_path, "jobs", "watch", job_id) as command:
        command.wait_until_shown("running")
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == (130, "")
        command.wait_until_shown(f"{job_id} goes on")
    server.go_on()
    assert _ended(server, job_id)["state"] == "succeeded"


def test_a_broken_stream_is_continued_after_the_last_state(atelier: Atelier, server: RunningServer) -> None:
    def breaks_when_it_runs(_: str, path: str, message: Message) -> bool:
        is_running = path.endswith("/events") and b'"running"' in message.get("body", b"")
        if is_running:
            server.breaking.num_unavailable = 1
        return is_running

    server.breaking.breaks.append(breaks_when_it_runs)
    ran = atelier("generate", "x", *_QUICK)
    assert (ran.exit_code, ran.stdout) == _MADE
    assert ran.stderr == f"The connection to {server.address} is lost. Trying again.\n"
    seen = [after for _, path, after in server.breaking.requests if path.endswith("/events")]
    assert seen == ["0", "1", "1"]


def test_a_stream_that_ends_early_is_continued(atelier: Atelier, server: RunningServer) -> None:
    server.hold()

    def ends(_: str, path: str, message: Message) -> bool:
        if path.endswith("/events") and b'"running"' in message.get("body", b""):
            message["more_body"] = False
            server.go_on()
        return False

    server.breaking.breaks.append(ends)
    ran = atelier("generate", "x", *_QUICK)
    assert (ran.exit_code, ran.stdout) == _MADE


@pytest.mark.parametrize("is_made", [True, False])
def test_a_hand_in_whose_answer_is_lost_makes_one_job(atelier: Atelier, server: RunningServer, is_made: bool) -> None:
    if is_made:
        server.breaking.breaks.append(lambda method, _, message: method == "POST" and "body" in message)
    else:
        server.breaking.num_unavailable = 1
    ran = atelier("generate", "x", *_QUICK)
    assert (ran.exit_code, ran.stdout) == _MADE
    assert [request[0] for request in server.breaking.requests[:2]] == ["POST", "POST"]
    assert len(server.jobs()) == 1


def test_a_server_that_stays_away_is_given_up(
    atelier: Atelier, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PAUSES_S", (0.01, 0.01))
    job_id = atelier("generate", "x", *_QUICK, "--detach").stdout.strip()
    server.breaking.num_unavailable = 1_000
    ran = atelier("jobs", "watch", job_id)
    server.breaking.num_unavailable = 0
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "answers with status 503" in ran.stderr
    assert f"atelier jobs watch {job_id} -o ." in ran.stderr


def test_images_that_cannot_be_saved_stay_on_the_server(atelier: Atelier, server: RunningServer) -> None:
    def is_picture(_: str, path: str, message: Message) -> bool:
        is_start = "/files/" in path and "status" in message
        if is_start:
            message["status"] = 404
        return False

    server.breaking.breaks.append(is_picture)
    ran = atelier("generate", "x", *_QUICK)
    [job] = server.jobs()
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert f"`atelier jobs watch {job['id']} -o .` saves the images again." in ran.stderr


def test_a_server_that_is_not_there_is_said_at_once(atelier: Atelier) -> None:
    ran = atelier("generate", "x", "--server", "http://127.0.0.1:9")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "No server can be reached at http://127.0.0.1:9" in ran.stderr
    assert "make run" in ran.stderr


def test_a_cancelled_job_is_said_so(atelier: Atelier, server: RunningServer) -> None:
    server.hold()
    atelier("generate", "x", *_QUICK, "--detach")
    job_id = atelier("generate", "x", *_QUICK, "--detach").stdout.strip()
    atelier("jobs", "cancel", job_id)
    ran = atelier("jobs", "watch", job_id, "-o", ".")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (1, "", f"{job_id} was cancelled.\n")


def _ended(server: RunningServer, job_id: str) -> dict[str, object]:
    """Wait for a job's last event, and return the job."""
    httpx2.get(f"{server.address}/v1/jobs/{job_id}/events", timeout=20)
    job: dict[str, object] = httpx2.get(f"{server.address}/v1/jobs/{job_id}").json()
    return job
