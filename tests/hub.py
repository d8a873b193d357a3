"""A model hub on the loopback: it serves the files of a folder as huggingface_hub asks for them.

Weights in safetensors are in its store of large files, with their SHA-256. Its connections can be made to break.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

#: The only commit of every repository, unless another is given.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PIECE_BYTES = 2**16


@dataclass(slots=True)
class Faults:
    """What goes wrong with large files."""

    #: Numbers of bytes after which connections break that have more to send, one after the other.
    cuts_after: list[int] = field(default_factory=list)
    #: Number of bytes after which connections wait for `released`.
    hold_after: int | None = None
    #: Seconds between two pieces of 64 KiB, until `released`.
    pause_s: float = 0.0
    released: threading.Event = field(default_factory=threading.Event)
    #: Set when a connection waits.
    held: threading.Event = field(default_factory=threading.Event)
    #: Whether the first byte of every file is another one than its SHA-256 says.
    are_bytes_wrong: bool = False
    has_ranges: bool = True
    #: Size of each large file in the metadata, if not its own.
    claimed_bytes: int | None = None


class Hub(ThreadingHTTPServer):
    """Serves `root`/OWNER/NAME/… as the repositories OWNER/NAME; `sent` lists the files that were downloaded."""

    def __init__(self, root: Path, commits: Mapping[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self._commits = commits
        self.sent: list[str] = []
        #: Number of bytes that were sent, by file.
        self.sent_bytes: Counter[str] = Counter()
        self.faults = Faults()
        #: Fields of repositories besides their files, such as `tags`, `cardData`, `downloads` and `gated`.
        self.cards: dict[str, dict[str, object]] = {}

    def commit(self, repository: str) -> str:
        """Return the only commit of a repository."""
        return self._commits.get(repository, COMMIT)

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client that uses this hub."""
        return {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1"}


@contextmanager
def hub(root: Path, commits: Mapping[str, str] | None = None) -> Iterator[Hub]:
    """Serve the repositories below `root`, some with commits of their own, while the context is open."""
    with Hub(root, commits or {}) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.faults.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer_file(with_body=False)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = unquote(url.path).strip("/").split("/")
        if parts == ["api", "models"]:
            self._answer_list(parse_qs(url.query))
            return
        if parts[:2] != ["api", "models"]:
            self._answer_file(with_body=True)
            return
        repository = "/".join(parts[2:4])
        folder = self.server.root / repository
        if not folder.is_dir():
            self._fail("RepoNotFound")
        elif parts[4:] == ["auth-check"]:
            if self.server.cards.get(repository, {}).get("gated"):
                self._fail("GatedRepo", 403)
            else:
                self._answer_json({})
        elif parts[5:] and parts[5] not in ("main", self.server.commit(repository)):
            self._fail("RevisionNotFound")
        elif parts[4:5] == ["tree"]:
            self._answer_json([self._entry(file, folder) for file in _files(folder)])
        else:
            self._answer_json(self._info(repository))

    def _answer_list(self, query: Mapping[str, list[str]]) -> None:
        """List repositories as the hub does: those whose id has the words and which have all tags."""
        [words], tags = query.get("search", [""]), query.get("filter", [])
        ids = [folder.relative_to(self.server.root).as_posix() for folder in sorted(self.server.root.glob("*/*"))]
        found = [
            one
            for one in map(self._info, ids)
            if words.lower() in str(one["id"]).lower() and set(tags) <= set(one["tags"])  # type: ignore[call-overload]
        ]
        found.sort(key=lambda one: -int(str(one["downloads"])))
        self._answer_json(found[: int(query["limit"][0])])

    def _info(self, repository: str) -> dict[str, object]:
        folder = self.server.root / repository
        entries = [self._entry(file, folder) for file in _files(folder)]
        siblings = [
            {"rfilename": one["path"], "size": one["size"], "blobId": one["oid"], "lfs": _renamed(one.get("lfs"))}
            for one in entries
        ]
        fields = {"tags": [], "downloads": 0, "likes": 0, "gated": False, "createdAt": "2026-01-02T03:04:05.000Z"}
        fields |= self.server.cards.get(repository, {})
        return {"id": repository, "sha": self.server.commit(repository), "siblings": siblings, **fields}

    def _answer_file(self, *, with_body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        commit = self.server.commit("/".join(parts[:2]))
        if parts[2:4] != ["resolve", commit]:
            self._fail("EntryNotFound")
            return
        owner, name, _, _, *path = parts
        content = self.server.root.joinpath(owner, name, *path).read_bytes()
        start, end = self._range() if with_body else (0, None)
        size, tag = len(content), hashlib.sha256(content).hexdigest()
        content = content[:end]
        is_part = start > 0 or len(content) < size
        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{size}")
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_body:
            self.server.sent.append("/".join(path))
            self._send("/".join(path), content, start)

    def _range(self) -> tuple[int, int | None]:
        """Return the asked number of the first byte, and that after the last; None for all."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not self.server.faults.has_ranges:
            return 0, None
        return int(asked[1]), int(asked[2]) + 1 if asked[2] else None

    def _send(self, path: str, content: bytes, start: int) -> None:
        """Send a file from a byte on; if it is a large one, with its faults."""
        faults, is_large = self.server.faults, path.endswith(".safetensors")
        if is_large and faults.are_bytes_wrong and not start:
            content = bytes([content[0] ^ 1]) + content[1:]
        end = len(content)
        if is_large and faults.cuts_after and start + faults.cuts_after[0] < end:
            end = start + faults.cuts_after.pop(0)
        hold = len(content) if faults.hold_after is None or not is_large else start + faults.hold_after
        for first in range(start, end, _PIECE_BYTES):
            if first >= hold:
                faults.held.set()
                faults.released.wait()
            if is_large and faults.pause_s:
                faults.released.wait(faults.pause_s)
            piece = content[first : min(first + _PIECE_BYTES, end)]
            try:
                self.wfile.write(piece)
            except OSError:
                # The client has left.
                return
            self.server.sent_bytes[path] += len(piece)
        if end < len(content):
            self.close_connection = True

    def _answer_json(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def _entry(self, file: Path, folder: Path) -> dict[str, object]:
        content = file.read_bytes()
        entry: dict[str, object] = {
            "type": "file",
            "path": file.relative_to(folder).as_posix(),
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        if file.suffix == ".safetensors":
            size = self.server.faults.claimed_bytes or len(content)
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return entry


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _renamed(lfs: object) -> object:
    """Return the fields of a large file as the description of a repository names them."""
    return None if not isinstance(lfs, dict) else {**lfs, "sha256": lfs["oid"]}
