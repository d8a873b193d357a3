"""`python -m tests.mutate ROOM`: break the functions of atelier/ROOM, one at a time, and list what goes unnoticed.

mutmut runs the quick tests of tests/unit/ROOM against each change, in processes forked from one that has imported
everything. It works on a copy, because it writes beside the sources. It changes the bodies of functions only: tables
and defaults at the top of a module or class are checked only by tests that repeat their values.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_MUTMUT = Path(sys.executable).parent / "mutmut"
_UNNOTICED = ("survived", "no tests", "suspicious")
_CONFIG = """
[tool.mutmut]
source_paths = ["atelier"]
only_mutate = ["atelier/{room}/*", "atelier/{room}.py"]
also_copy = ["deployments", "zoo", "graph.py"]
do_not_mutate_patterns = ['^\\s*logger\\.']
# torch's threads do not survive a fork, so nothing runs in the process that is forked.
process_isolation = "forkserver"
pytest_add_cli_args = ["-m", "not slow and not zoo"]
pytest_add_cli_args_test_selection = ["tests/unit/{room}"]
"""


def main() -> int:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        _copy_tree(tree)
        with (tree / "pyproject.toml").open("a") as config:
            config.write(_CONFIG.format(room=arguments.room))
        status = _run(tree, arguments)
        _report(tree)
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break a room of atelier and list what its quick tests let through.")
    rooms = sorted(path.name for path in (_ROOT / "tests/unit").iterdir() if any(path.glob("test_*.py")))
    parser.add_argument("room", choices=rooms)
    parser.add_argument("--minutes", type=float, default=10, help="mutants not tried by then are only counted")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _copy_tree(folder: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT).stdout
    for name in listed.splitlines():
        if (_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_ROOT / name, folder / name)


def _run(tree: Path, arguments: argparse.Namespace) -> int:
    """Try mutants until all are tried or the time is over; return 0, or mutmut's status if it failed."""
    command = [str(_MUTMUT), "run", "--max-children", str(arguments.processes)]
    # A new session, so that killing its process group also ends mutmut's workers.
    run = subprocess.Popen(command, cwd=tree, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        output, _ = run.communicate(timeout=60 * arguments.minutes)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        return 0
    if run.returncode != 0:
        sys.stdout.write(f"{output[-2000:]}\nmutmut ended early with status {run.returncode}\n")
    return run.returncode


def _report(tree: Path) -> None:
    statuses = _statuses(tree)
    for name, status in statuses.items():
        if status in _UNNOTICED:
            sys.stdout.write(f"\n{status}: {name}\n{_mutmut(tree, 'show', name)}")
    counts = collections.Counter(statuses.values())
    sys.stdout.write(f"\n{', '.join(f'{count} {status}' for status, count in counts.most_common())}\n")


def _statuses(tree: Path) -> dict[str, str]:
    lines = _mutmut(tree, "results", "--all", "true").splitlines()
    return {name.strip(): status.strip() for name, colon, status in (line.partition(":") for line in lines) if colon}


def _mutmut(tree: Path, *arguments: str) -> str:
    return subprocess.run([str(_MUTMUT), *arguments], check=True, capture_output=True, text=True, cwd=tree).stdout


if __name__ == "__main__":
    sys.exit(main())
