"""A small hub on 127.0.0.1: repositories with branches and commits, served as huggingface_hub's client asks for them.

It speaks model and data set information, tree listings, access checks, and files with ETag, commit and ranges; it can
be told to fail in every way that the client is to survive. It offers no xet storage, so files go over plain HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?P<rest>/.*)?")
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_HANG_SECONDS = 60


@dataclass
class Fault:
    """A failure to inject.

    Attributes:
        status: answer with this status; 0 answers with the file, damaged as told below.
        where: a regular expression; requests whose method and path match it fail, for example ``GET .*safetensors``.
        times: how many requests fail; -1 fails all.
        headers: of the answer.
        cut: send so many bytes of the body, then close.
        lie: a Content-Length and a body that are shorter by so many bytes.
        garble: send the right number of wrong bytes.
        body: of the answer, instead of a JSON error.
        hang: don't answer until the server stops.
    """

    status: int
    where: str
    times: int = -1
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    lie: int = 0
    garble: bool = False
    body: bytes | None = None
    hang: bool = False


@dataclass
class HostedRepo:
    """A repository: commits by hash, each a mapping of paths to contents, and branches.

    ``lfs`` lists the endings of files that are kept by Git LFS, so that SHA-256 is their ETag.
    """

    id: str
    kind: str = "model"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    disabled: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    lfs: tuple[str, ...] = (".safetensors", ".parquet", ".bin")
    readers: frozenset[str] = frozenset()

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files to a branch and return its hash."""
        state = hashlib.sha1(f"{self.id} {len(self.commits)}".encode(), usedforsecurity=False)
        for path, content in sorted(files.items()):
            state.update(f"{path} {hashlib.sha256(content).hexdigest()}".encode())
        name = state.hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name

    def commit_directory(self, directory: Path, branch: str = "main", **more: bytes) -> str:
        """Add a commit with every file of a directory, and more files by name, with ``__`` for a dot."""
        files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*")}
        return self.commit(files | {name.replace("__", "."): content for name, content in more.items()}, branch)

    def is_lfs(self, path: str) -> bool:
        """Tell whether a file is kept by Git LFS."""
        return path.endswith(self.lfs)


def blob_id(content: bytes) -> str:
    """Return the hash that Git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class HubServer:
    """The server. ``requests`` lists what was asked, as ``GET /path``, with ``[range]`` after a ranged request."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], HostedRepo] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.bytes_sent = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What to set HF_ENDPOINT to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, id_: str, kind: str = "model", **facts: Any) -> HostedRepo:
        """Add an empty repository."""
        repo = HostedRepo(id_, kind, **facts)
        self.repos[kind, id_] = repo
        return repo

    def stop(self) -> None:
        """Stop answering."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, request: str) -> Fault | None:
        """Record a request and return the fault that is due, if one is."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.where, request):
                    fault.times -= 1
                    return fault
        return None

    def sent(self, count: int) -> None:
        """Count bytes of files."""
        with self._lock:
            self.bytes_sent += count


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run a server for the time of a test."""
    server = HubServer()
    try:
        yield server
    finally:
        if not server.stopping.is_set():
            server.stop()


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        ranged = " [range]" if "Range" in self.headers else ""
        fault = self.hub.note(f"{self.command} {self.path}{ranged}")
        if fault is not None and fault.hang:
            self.hub.stopping.wait(_HANG_SECONDS)
            self.close_connection = True
        elif fault is not None and fault.status:
            self._send(fault.status, fault.body or b'{"error": "injected"}', dict(fault.headers))
        elif match := _API.fullmatch(path):
            self._api(match["kind"].rstrip("s"), match["id"], match["rest"] or "")
        elif match := _FILE.fullmatch(path):
            # Slashes of a revision come quoted, so it is taken from the path as it was sent.
            quoted = _FILE.fullmatch(urlsplit(self.path).path)
            revision = unquote(quoted["revision"]) if quoted else match["revision"]
            self._file("dataset" if match["kind"] else "model", match["id"], revision, match["path"], fault)
        else:
            self._refuse(404, "EntryNotFound")

    def _repo(self, kind: str, id_: str, *, content: bool) -> HostedRepo | None:
        """Return a repository that the token may see; else answer as the hub does, and return None."""
        repo = self.hub.repos.get((kind, id_))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        granted = repo is not None and token in repo.readers
        if repo is None or (repo.private and not granted):
            self._refuse(404 if token else 401, "RepoNotFound")
            return None
        if content and repo.gated and not granted:
            self._refuse(403 if token else 401, "GatedRepo")
            return None
        return repo

    def _api(self, kind: str, id_: str, rest: str) -> None:
        repo = self._repo(kind, id_, content=rest == "/auth-check" or rest.startswith("/tree"))
        if repo is None:
            return
        if rest == "/auth-check":
            self._json({})
            return
        action, _, revision = rest.strip("/").partition("/")
        commit = self._commit(repo, unquote(revision) or "main")
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif action == "tree":
            self._json([_tree_entry(repo, path, content) for path, content in repo.commits[commit].items()])
        else:
            self._json(_info(repo, commit))

    def _file(self, kind: str, id_: str, revision: str, path: str, fault: Fault | None) -> None:
        repo = self._repo(kind, id_, content=True)
        if repo is None:
            return
        commit = self._commit(repo, revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        elif path not in repo.commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._content(repo, commit, path, fault or Fault(0, ""))

    def _content(self, repo: HostedRepo, commit: str, path: str, fault: Fault) -> None:
        content = repo.commits[commit][path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(content)}"', "Accept-Ranges": "bytes"}
        if repo.is_lfs(path):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        status, body = 200, content
        if asked := self.headers.get("Range"):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            status, body = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if fault.garble:
            body = bytes(byte ^ 0xFF for byte in body)
        if self.command == "GET":
            body = body[: len(body) - fault.lie]
        self._send(status, body, headers, cut=fault.cut)

    def _commit(self, repo: HostedRepo, revision: str) -> str | None:
        commit = repo.branches.get(revision, revision)
        return commit if commit in repo.commits else None

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, b'{"error": "refused"}', {"X-Error-Code": code, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            shown = body if cut is None else body[:cut]
            self.hub.sent(len(shown))
            self.wfile.write(shown)
            self.close_connection = self.close_connection or cut is not None


def _info(repo: HostedRepo, commit: str) -> dict[str, Any]:
    siblings = []
    for path, content in repo.commits[commit].items():
        entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob_id(content)}
        if repo.is_lfs(path):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    return {
        "id": repo.id,
        "sha": commit,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "cardData": dict(repo.card),
        "siblings": siblings,
        "tags": [],
        "downloads": 0,
    }


def _tree_entry(repo: HostedRepo, path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    if repo.is_lfs(path):
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry
