"""Reading a directory that somebody else made: every file once, bounded, and nothing followed, parsed or executed.

What is judged later are the bytes read here, so a file that changes during verification changes nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.reading import FILE_FLAGS, FOLDER_FLAGS, UnfitFileError, read_descriptor
from pytest_proofpack.errors import ConfigurationError, VerificationError
from pytest_proofpack.pack.layout import CHECKSUMS, MANIFEST
from pytest_proofpack.pack.paths import path_findings
from pytest_proofpack.pack.signers import signature_files

_KEPT = (".json", ".sha256", ".txt")
_LIMITS: Mapping[str, int] = {MANIFEST: BUDGETS.manifest_bytes, CHECKSUMS: BUDGETS.checksums_bytes}
_FILE, _FOLDER, _LINK, _OTHER = "file", "folder", "a symbolic link", "a device, a pipe or a socket"


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
    """

    files: dict[str, FileFacts] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def take_snapshot(directory: Path) -> Snapshot:
    """Read every file below ``directory`` once.

    Raises:
        ConfigurationError: it is not a directory, or cannot be read.
        VerificationError: it holds more than any pack does.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(f"{directory}: cannot be read ({error.strerror}). Make it readable.") from error
    reader = _Reader()
    try:
        reader.read_folder(descriptor, "", 0)
    finally:
        os.close(descriptor)
    reader.snapshot.findings += path_findings(reader.snapshot.files)
    return reader.snapshot


class _Reader:
    """One walk through a directory, and what is left of its budgets."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._entries = 0
        self._bytes = 0
        self._documents = 0
        self._signatures = signature_files()

    def read_folder(self, descriptor: int, prefix: str, depth: int) -> None:
        try:
            found = self._listed(descriptor)
        except OSError as error:
            self._find(prefix.rstrip("/") or ".", f"cannot be listed ({error.strerror})")
            return
        if not found:
            self._find(prefix.rstrip("/") or ".", "an empty folder")
        for name, kind in found:
            path = prefix + name
            if kind == _FILE:
                self._read_file(descriptor, name, path)
            elif kind == _FOLDER:
                self._descend(descriptor, name, path, depth)
            else:
                self._find(path, f"{kind}; a pack holds regular files only")

    def _find(self, path: str, problem: str) -> None:
        self.snapshot.findings.append(f"{path!a}: {problem}")

    def _listed(self, descriptor: int) -> list[tuple[str, str]]:
        """Return name and kind of what lies in a folder, sorted; nothing is opened to find out."""
        found = []
        with os.scandir(descriptor) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > BUDGETS.files:
                    raise VerificationError(f"more than {BUDGETS.files} files; no pack has so many")
                found.append((entry.name, _kind(entry)))
        return sorted(found)

    def _descend(self, parent: int, name: str, path: str, depth: int) -> None:
        if depth >= BUDGETS.folder_depth:
            self._find(path, "nested too deeply")
            return
        try:
            descriptor = os.open(name, FOLDER_FLAGS, dir_fd=parent)
        except OSError as error:
            self._find(path, f"cannot be read ({error.strerror})")
            return
        try:
            self.read_folder(descriptor, f"{path}/", depth + 1)
        finally:
            os.close(descriptor)

    def _read_file(self, parent: int, name: str, path: str) -> None:
        kept = path.endswith(_KEPT) or path in self._signatures
        limit = _LIMITS.get(path, BUDGETS.document_bytes if kept else BUDGETS.file_bytes)
        try:
            data = _bytes_of(parent, name, limit)
        except OSError as error:
            self._find(path, f"cannot be read ({error.strerror})")
            return
        if isinstance(data, str):
            self._find(path, data)
            return
        self._bytes += len(data)
        self._documents += len(data) if kept else 0
        if self._bytes > BUDGETS.pack_bytes:
            raise VerificationError(f"more than {BUDGETS.pack_bytes} bytes; no pack is so large")
        if self._documents > BUDGETS.json_bytes:
            raise VerificationError(f"documents of more than {BUDGETS.json_bytes} bytes; no pack has so many")
        self.snapshot.files[path] = FileFacts.of(data)
        if kept:
            self.snapshot.contents[path] = data


def _kind(entry: os.DirEntry[str]) -> str:
    """Return what an entry is; one that cannot be looked at (it has vanished, say) is opened, which then tells why."""
    try:
        if entry.is_symlink():
            return _LINK
        if entry.is_dir(follow_symlinks=False):
            return _FOLDER
        return _FILE if entry.is_file(follow_symlinks=False) else _OTHER
    except OSError:
        return _FILE


def _bytes_of(parent: int, name: str, limit: int) -> bytes | str:
    """Return what a file holds, or why it is not read.

    Raises:
        OSError: it cannot be opened or read.
    """
    descriptor = os.open(name, FILE_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
    try:
        return read_descriptor(descriptor, limit)
    except UnfitFileError as error:
        return str(error.strerror)
    except IsADirectoryError:
        return "not a regular file"
    finally:
        os.close(descriptor)
