"""A model hub on the loopback: it serves the files of a folder as huggingface_hub asks for them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: The only commit of every repository, unless another is given.
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `root`/OWNER/NAME/… as the repositories OWNER/NAME; `sent` lists the files that were downloaded."""

    def __init__(self, root: Path, commits: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self._commits = commits
        self.sent: list[str] = []

    def commit(self, repository: str) -> str:
        """Return the only commit of a repository."""
        return self._commits.get(repository, COMMIT)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client that uses this hub."""
        host, port = self.server_address[:2]
        return {"HF_ENDPOINT": f"http://{host!s}:{port}", "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def hub(root: Path, commits: Mapping[str, str] | None = None) -> Iterator[Hub]:
    """Serve the repositories below `root`, some with commits of their own, while the context is open."""
    with Hub(root, commits or {}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer_file(with_body=False)

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] != ["api", "models"]:
            self._answer_file(with_body=True)
            return
        repository = "/".join(parts[2:4])
        folder = self.server.root / repository
        if not folder.is_dir():
            self._fail("RepoNotFound")
        elif parts[5] not in ("main", self.server.commit(repository)):
            self._fail("RevisionNotFound")
        elif parts[4] == "tree":
            self._answer_json([_entry(file, folder) for file in sorted(folder.rglob("*")) if file.is_file()])
        else:
            self._answer_json({"id": repository, "sha": self.server.commit(repository), "siblings": []})

    def _answer_file(self, *, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        commit = self.server.commit("/".join(parts[:2]))
        if parts[2:4] != ["resolve", commit]:
            self._fail("EntryNotFound")
            return
        owner, name, _, _, *path = parts
        content = self.server.root.joinpath(owner, name, *path).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_body:
            self.server.sent.append("/".join(path))
            self.wfile.write(content)

    def _answer_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def _entry(file: Path, folder: Path) -> dict[str, object]:
    content = file.read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": file.relative_to(folder).as_posix(), "size": len(content), "oid": oid}
