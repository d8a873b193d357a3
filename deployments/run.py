"""`python -m deployments.run CONFIG`: run the graph on this machine, and print an example request when ready."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

_ADDRESS = "http://127.0.0.1:8000"
_POLL_S = 0.25

_WELCOME = f"""
Atelier is ready at {_ADDRESS} (documentation: {_ADDRESS}/docs). Try, in another terminal:

  curl -s {_ADDRESS}/v1/images/generations -H 'content-type: application/json' \\
    -d '{{"prompt": "a red circle on the left, white background", "response_format": "url"}}'

and open the url in the response. Another prompt: "a small yellow star at the top and a large blue ring at the bottom,
black background". Ctrl-C stops the graph.
"""


def main() -> int:
    """Run until Ctrl-C or the end of `serve run`; returns its exit status."""
    # A shell script's background processes start with SIGINT ignored, and `serve run` would inherit that.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    config = sys.argv[1]
    serve = shutil.which("serve", path=os.path.dirname(sys.executable)) or "serve"
    graph = subprocess.Popen([serve, "run", config])
    try:
        while graph.poll() is None and not _is_ready():
            time.sleep(_POLL_S)
        if graph.poll() is None:
            sys.stdout.write(_WELCOME)
            sys.stdout.flush()
        return graph.wait()
    except KeyboardInterrupt:
        graph.send_signal(signal.SIGINT)
        return graph.wait()


def _is_ready() -> bool:
    try:
        with urllib.request.urlopen(f"{_ADDRESS}/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
