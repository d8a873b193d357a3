"""`deploy/nginx.conf` in an nginx of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONF = Path(__file__).parents[1] / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
_NUM_CONNECTIONS = 8192
_WAIT_S = 10


@contextmanager
def running_nginx(folder: Path, *replacements: tuple[str, str]) -> Iterator[str]:
    """Run the file with some of its lines replaced, on a free port of the loopback; yield the address."""
    assert NGINX is not None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    conf = _CONF.read_text()
    for line, replacement in (("listen 80;", f"listen 127.0.0.1:{port};"), *replacements):
        assert conf.count(line) == 1
        conf = conf.replace(line, replacement)
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
        f"events {{ worker_connections {_NUM_CONNECTIONS}; }}"
        f"http {{ access_log {folder}/access.log; {folders}\n{conf} }}"
    )
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(_WAIT_S)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError(f"nginx ended with status {process.returncode}")
