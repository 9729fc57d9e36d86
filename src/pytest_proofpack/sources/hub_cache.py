"""The cache of the hub on this machine: where files lie, and whether they are what the commit holds.

The cache is huggingface_hub's: ``models--ORG--NAME/snapshots/COMMIT/FILE`` are links to ``blobs/ETAG``, where the ETag
is the SHA-256 of a file kept by Git LFS and Git's own hash of any other. Either is computed again from the content, so
a file that was changed, cut short or swapped is found out. No function here opens a socket.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from pytest_proofpack.common.files import read_several
from pytest_proofpack.common.strict_json import read_json
from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.sources.needed_files import helper_file, is_plain_path, needed_files
from pytest_proofpack.sources.source import Source

MAX_FILES = 100_000
"""Upper bound on files that a repository lists."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_READ_SIZE = 1 << 20
_MOST_NAMED = 5
_TREE_FORMAT = 1
"""The version of huggingface_hub's stored listings that is understood here."""


@dataclass(frozen=True)
class HubFile:
    """What the hub says of one file at one commit.

    Attributes:
        size: in bytes; None where only the cache can be asked, which does not know it.
        digest: 64 hexadecimal digits: SHA-256 of the content; 40: Git's hash of it.
    """

    size: int | None
    digest: str


Listing = Mapping[str, HubFile]
"""Every file of a repository at a commit, by its path."""


def cache_directory() -> Path:
    """Return where huggingface_hub keeps its files, as HF_HOME and its other variables say."""
    return Path(constants.HF_HUB_CACHE)


def repository_directory(source: Source, cache: Path | None = None) -> Path:
    """Return where the cache keeps a repository, whether it is there or not."""
    return (cache or cache_directory()) / repo_folder_name(repo_id=source.id, repo_type=source.kind)


def snapshot_directory(source: Source, commit: str, cache: Path | None = None) -> Path:
    """Return where the cache keeps one commit of a repository, whether it is there or not."""
    return repository_directory(source, cache) / "snapshots" / commit


def snapshot_problem(source: Source, commit: str, listing: Listing | None, cache: Path | None = None) -> str | None:
    """Check that the files which a run needs are in the cache, and are what the commit holds.

    Args:
        source: the repository.
        commit: the pinned commit.
        listing: what the hub says; None asks the cache, which knows it from the download or by the names of its blobs.
        cache: the cache; None is huggingface_hub's.

    Returns:
        One line that says what is missing or wrong; None if all is well.
    """
    repository, directory = repository_directory(source, cache), snapshot_directory(source, commit, cache)
    if not directory.is_dir():
        return f"{source}: commit {commit} is not in the cache ({repository})"
    known = listing if listing is not None else _stored_listing(repository, commit)
    try:
        names = sorted(known) if known is not None else files_below(directory)
        helper = helper_file(source, names)
        complete = helper is None or (directory / helper).is_file()
        wanted = needed_files(source, names, directory) if complete else (str(helper),)
    except ConfigurationError as error:
        return f"{source} at commit {commit[:12]}: {str(error).rstrip('.')}"
    missing = [name for name in wanted if not (directory / name).is_file()]
    if missing:
        return f"{source}: the cache ({repository}) lacks {first_of(missing, _MOST_NAMED)} of commit {commit[:12]}"
    if known is None and not any((directory / name).is_symlink() for name in wanted):
        named = f"--proofpack-model={directory}" if source.text is None else f'text.path = "{directory}" in the suite'
        return (
            f"{source}: the cache ({repository}) was copied without its links, so nobody can tell whether its files "
            f"are those of commit {commit[:12]}; copy it with them (cp -a), or name the directory itself: {named}"
        )
    expected = {name: known.get(name) if known is not None else _by_blob(directory / name) for name in wanted}
    findings = read_several(lambda name: _file_problem(directory / name, expected[name]), wanted)
    wrong = [f"{name} {finding}" for name, finding in zip(wanted, findings, strict=True) if finding is not None]
    if wrong:
        where = f"Delete it below {repository} and download it again"
        return f"{source}: in the cache, {'; '.join(wrong[:_MOST_NAMED])}, at commit {commit[:12]}. {where}"
    return None


def files_below(directory: Path) -> list[str]:
    """List the files of a snapshot, sorted.

    Raises:
        ConfigurationError: there are more than any repository has.
    """
    names: list[str] = []
    for folder, _, files in os.walk(directory):
        names += [Path(folder, name).relative_to(directory).as_posix() for name in files]
        if len(names) > MAX_FILES:
            raise ConfigurationError(f"{directory} holds more than {MAX_FILES} files")
    return sorted(names)


def content_digest(path: Path, digits: int) -> str:
    """Return a file's SHA-256 (64 digits), or the hash that Git gives its content (40 digits)."""
    if digits == 64:
        state = hashlib.sha256()
    else:  # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_SIZE):
            state.update(chunk)
    return state.hexdigest()


def is_file_facts(size: object, digest: object) -> bool:
    """Tell whether size and digest from elsewhere can be those of a file."""
    return type(size) is int and size >= 0 and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


def _file_problem(path: Path, expected: HubFile | None) -> str | None:
    """Return what is wrong with a file, as the end of a sentence that begins with its name."""
    if expected is None:
        return "cannot be checked, because the cache does not say what it should be"
    try:
        size = path.stat().st_size
        if expected.size is not None and size != expected.size:
            return f"has {size} bytes instead of {expected.size}"
        digest = content_digest(path, len(expected.digest))
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if digest != expected.digest:
        kind = "SHA-256" if len(digest) == 64 else "Git hash"
        return f"has the {kind} {digest} instead of {expected.digest}"
    return None


def _by_blob(path: Path) -> HubFile | None:
    """Return what a link's target claims to be by its name, the ETag."""
    name = path.readlink().name if path.is_symlink() else ""
    return HubFile(None, name) if _DIGEST.fullmatch(name) else None


def _stored_listing(repository: Path, commit: str) -> dict[str, HubFile] | None:
    """Return the listing that huggingface_hub keeps of a download; None if it is not there or not understood."""
    path = repository / "trees" / f"{commit}.json"
    if not path.is_file():
        return None
    try:
        document = read_json(path)
    except FormatError:
        return None
    files = document.get("files")
    if document.get("format_version") != _TREE_FORMAT or not isinstance(files, dict) or len(files) > MAX_FILES:
        return None
    listing = {name: _stored_file(entry) for name, entry in files.items() if is_plain_path(name)}
    return {name: file for name, file in listing.items() if file is not None}


def _stored_file(entry: Any) -> HubFile | None:
    if not isinstance(entry, dict):
        return None
    size, digest = entry.get("size"), entry.get("lfs_sha256", entry.get("blob_id"))
    if not isinstance(size, int) or not isinstance(digest, str) or not is_file_facts(size, digest):
        return None
    return HubFile(size, digest)
