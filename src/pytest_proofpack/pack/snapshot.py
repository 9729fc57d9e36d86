"""Reading a directory that somebody else made: every file once, bounded, and nothing followed or executed.

What is judged later are the bytes read here, so a file that changes during verification changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_proofpack.common.strict_json import MAX_BYTES
from pytest_proofpack.errors import VerificationError
from pytest_proofpack.pack.signers import signature_files

MAX_FILES = 20_000
MAX_TOTAL_BYTES = 1 << 30
MAX_DEPTH = 12
_MAX_NAME_BYTES = 255
_KEPT = (".json", ".sha256", ".txt")
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True)
class FileFacts:
    """Digest (hexadecimal SHA-256) and size in bytes of one file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> FileFacts:
        """Return the facts of a file with this content."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))


@dataclass
class Snapshot:
    """What a directory held when it was read.

    Attributes:
        files: facts of every regular file, by relative path.
        contents: the bytes of documents, signature and checksums; of nothing that only people look at.
        findings: what must not be in a pack: links, devices, empty folders, unreadable or unsafe names.
        total_bytes: size of all files together.
    """

    files: dict[str, FileFacts] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    total_bytes: int = 0


def take_snapshot(directory: Path) -> Snapshot:
    """Read every file below ``directory`` once.

    Raises:
        VerificationError: it is not a directory, cannot be read, or holds more than any pack does.
    """
    snapshot = Snapshot()
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise VerificationError(f"{directory.name or directory}: cannot be read ({error.strerror})") from error
    try:
        _read_folder(descriptor, "", 0, snapshot)
    finally:
        os.close(descriptor)
    snapshot.findings += path_findings(snapshot.files)
    return snapshot


def path_findings(paths: Iterable[str]) -> list[str]:
    """Name every path that is unsafe, and every pair that some file system would take for one file.

    ``/x`` and ``a/../b`` lead outside; control characters and backslashes mean different things in different places;
    ``A`` and ``a``, or two Unicode spellings of one name, are one file on Windows and macOS.
    """
    findings = []
    seen: dict[str, str] = {}
    for path in sorted(paths):
        if problem := _problem(path):
            findings.append(f"{path!a}: {problem}")
            continue
        for prefix in _prefixes(path):
            folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prefix).casefold())
            twin = seen.setdefault(folded, prefix)
            if twin != prefix:
                findings.append(f"{prefix!a}: has a twin, {twin!a}, that differs in case or Unicode spelling only")
    return list(dict.fromkeys(findings))


def _prefixes(path: str) -> Iterator[str]:
    """Yield ``a``, ``a/b``, ``a/b/c`` of ``a/b/c``."""
    parts = path.split("/")
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[:length])


def _problem(path: str) -> str | None:
    if path.startswith("/") or (len(path) > 1 and path[1] == ":"):
        return "an absolute path"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "leads outside of the pack, or is written in a roundabout way"
    if "\\" in path or not path.isprintable():
        return "holds a backslash or a character that cannot be printed"
    if any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.split("/")) or path.count("/") > MAX_DEPTH:
        return "too long or too deep"
    return None


def _read_folder(descriptor: int, prefix: str, depth: int, snapshot: Snapshot) -> None:
    with os.scandir(descriptor) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in _bounded(entries, snapshot)]
    if not found:
        snapshot.findings.append(f"{prefix.rstrip('/') or '.'!a}: an empty folder")
    for name, mode in sorted(found):
        path = f"{prefix}{name}"
        if stat.S_ISDIR(mode):
            _descend(descriptor, name, path, depth, snapshot)
        elif stat.S_ISREG(mode):
            _read_file(descriptor, name, path, snapshot)
        else:
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
            snapshot.findings.append(f"{path!a}: {kind}; a pack holds regular files only")


def _bounded(entries: Iterator[os.DirEntry[str]], snapshot: Snapshot) -> Iterator[os.DirEntry[str]]:
    for count, entry in enumerate(entries):
        if count + len(snapshot.files) + len(snapshot.findings) >= MAX_FILES:
            raise VerificationError(f"more than {MAX_FILES} files; no pack has so many")
        yield entry


def _descend(parent: int, name: str, path: str, depth: int, snapshot: Snapshot) -> None:
    if depth >= MAX_DEPTH:
        snapshot.findings.append(f"{path!a}: nested too deeply")
        return
    try:
        descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    except OSError as error:
        snapshot.findings.append(f"{path!a}: cannot be read ({error.strerror})")
        return
    try:
        _read_folder(descriptor, f"{path}/", depth + 1, snapshot)
    finally:
        os.close(descriptor)


def _read_file(parent: int, name: str, path: str, snapshot: Snapshot) -> None:
    try:
        # The entry may have been replaced since it was listed: what counts is what is open now.
        with os.fdopen(os.open(name, _FILE_FLAGS, dir_fd=parent), "rb") as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                snapshot.findings.append(f"{path!a}: not a regular file")
            elif facts.st_size > MAX_BYTES:
                snapshot.findings.append(f"{path!a}: {facts.st_size} bytes, more than the {MAX_BYTES} allowed")
            else:
                _take(path, stream.read(MAX_BYTES + 1), snapshot)
    except OSError as error:
        snapshot.findings.append(f"{path!a}: cannot be read ({error.strerror})")


def _take(path: str, data: bytes, snapshot: Snapshot) -> None:
    snapshot.total_bytes += len(data)
    if snapshot.total_bytes > MAX_TOTAL_BYTES:
        raise VerificationError(f"more than {MAX_TOTAL_BYTES} bytes; no pack is so large")
    snapshot.files[path] = FileFacts.of(data)
    if path.endswith(_KEPT) or path in signature_files():
        snapshot.contents[path] = data
