"""A process that reads clients' images, because decoding in a thread can be neither stopped nor limited in memory.

`python -m atelier.imaging.process NICENESS` is that process: it reads pickled calls from stdin and writes pickled
answers to stdout. `ImageProcess` starts and calls it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, ParamSpec, TypeVar, cast

from atelier.core.errors import TooMuchWork

#: Maximum memory of the process; the largest image needs half of it.
MAX_BYTES = 800_000_000
_ENVIRONMENT = {
    # glibc then returns every block of more than 1 MB to the system when it is freed.
    "MALLOC_MMAP_THRESHOLD_": "1000000",
    # numpy's BLAS otherwise reserves memory for each core of the machine.
    "OPENBLAS_NUM_THREADS": "1",
}

P = ParamSpec("P")
T = TypeVar("T")


class ImageProcess:
    """Runs one call after another in a process, which is started for the first call and whenever it has ended."""

    def __init__(self, name: str, *, niceness: int = 0) -> None:
        """With a niceness (0 to 19, see nice(2)), models go first where they share the CPU with the process."""
        self._niceness = niceness
        self._thread = ThreadPoolExecutor(1, name)
        self._process: subprocess.Popen[bytes] | None = None
        #: Protects `_running`, so that cancelling a call never ends the process of the next one.
        self._lock = threading.Lock()
        self._running: object = None
        atexit.register(self._end)

    async def run(self, max_cpu_s: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the process, for at most `max_cpu_s` seconds of CPU time.

        Function, arguments and result are pickled. Errors of the function are passed on. Being cancelled ends the
        process.

        Raises:
            TooMuchWork: the call took more time or memory than it may, or the process was ended for another reason.
        """
        call = object()
        answer = self._thread.submit(self._call, call, (max_cpu_s, function, args, kwargs))
        try:
            return cast(T, await asyncio.wrap_future(answer))
        except asyncio.CancelledError:
            with self._lock:
                if self._running is call and self._process is not None:
                    self._process.kill()
            raise

    def _call(self, call: object, request: object) -> object:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = _start(self._niceness)
            process, self._running = self._process, call
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(request, process.stdin, protocol=5)
            process.stdin.flush()
            succeeded, result = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._end()
            raise _too_much() from error
        finally:
            with self._lock:
                self._running = None
        if succeeded:
            return result
        raise cast(Exception, result)

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _too_much() -> TooMuchWork:
    return TooMuchWork("The images take too much time or memory to decode.")


def _start(niceness: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", __name__, str(niceness)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def main() -> None:
    """Answer calls until stdin ends."""
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    while _answer(calls, answers):
        pass


def _answer(calls: IO[bytes], answers: IO[bytes]) -> bool:
    """Answer the next call; returns False if there is none, because the process that calls has ended."""
    try:
        max_cpu_s, function, args, kwargs = pickle.load(calls)
    except EOFError:
        return False
    # The kernel ends this process when the time is over.
    signal.setitimer(signal.ITIMER_PROF, max_cpu_s)
    try:
        answer = True, function(*args, **kwargs)
    except MemoryError:
        answer = False, _too_much()
    except Exception as error:
        # Every other error is raised where the call was made.
        answer = False, error
    signal.setitimer(signal.ITIMER_PROF, 0)
    pickle.dump(answer, answers, protocol=5)
    answers.flush()
    return True


if __name__ == "__main__":
    main()
