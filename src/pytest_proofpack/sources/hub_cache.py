"""The cache of the hub on this machine: which files a run needs, where they lie, and whether they are whole.

The cache is huggingface_hub's: ``models--ORG--NAME/snapshots/COMMIT/FILE`` are links to ``blobs/ETAG``, where the ETag
is the SHA-256 of a file kept by Git LFS and Git's own hash of any other. Either is computed again from the content, so
a file that was changed, cut short or swapped is found out. No function here opens a socket.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from pytest_proofpack.common.files import read_several
from pytest_proofpack.common.strict_json import read_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.models.files import CONFIG, GENERATION_CONFIG, TOKENIZER_FILES
from pytest_proofpack.models.formats.pickle import pickles
from pytest_proofpack.models.safetensors_files import INDEX, WEIGHTS, indexed_shards
from pytest_proofpack.sources.pinning import Source
from pytest_proofpack.text.dataset_layout import select_files
from pytest_proofpack.text.parquet import CARD, read_card

MAX_FILES = 100_000
"""Upper bound on files that a repository lists."""

_MODEL_FILES = frozenset(
    {
        *(CONFIG, GENERATION_CONFIG),
        *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
        *TOKENIZER_FILES,
    }
)
_CODE = (".py", ".tiktoken")
"""What a model with code of its own brings besides."""
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


def existing_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def repository_directory(source: Source, cache: Path | None = None) -> Path:
    """Return where the cache keeps a repository, whether it is there or not."""
    return (cache or cache_directory()) / repo_folder_name(repo_id=source.id, repo_type=source.kind)


def snapshot_directory(source: Source, commit: str, cache: Path | None = None) -> Path:
    """Return where the cache keeps one commit of a repository, whether it is there or not."""
    return repository_directory(source, cache) / "snapshots" / commit


def helper_file(source: Source, names: Iterable[str]) -> str | None:
    """Return the small file that says which others are needed: index of the weights, or card of the data set.

    None if there is no such file or it is not needed.
    """
    available = frozenset(names)
    if source.text is not None:
        return CARD if CARD in available else None
    return INDEX if INDEX in available and WEIGHTS not in available else None


def wanted_files(source: Source, names: Sequence[str], directory: Path) -> tuple[str, ...]:
    """Return the files of a repository that a run needs, sorted.

    Of a model: configuration, tokenizer and safetensors with their index; code only if it may run; never pickles. Of a
    data set: its card and the parquet files of the split.

    Args:
        source: the repository.
        names: the paths of all of its files.
        directory: where its :func:`helper_file` lies, if it has one.

    Raises:
        ConfigurationError: something that is needed is not among ``names``.
    """
    available = frozenset(names)
    if source.text is not None:
        card = directory / CARD
        chosen = select_files(names, read_card(card), source.text.config, source.text.split)
        return tuple(sorted({*chosen, *({CARD} & available)}))
    code = {name for name in names if source.remote_code and name.endswith(_CODE)}
    return tuple(sorted({*(_MODEL_FILES & available), *code, *_weights(available, directory)}))


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
        wanted = wanted_files(source, names, directory) if complete else (str(helper),)
    except ConfigurationError as error:
        return f"{source} at commit {commit[:12]}: {str(error).rstrip('.')}"
    missing = [name for name in wanted if not (directory / name).is_file()]
    if missing:
        return f"{source}: the cache ({repository}) lacks {_some(missing)} of commit {commit[:12]}"
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


def is_plain_path(name: object) -> bool:
    """Tell whether a name from elsewhere is the relative path of a file that stays where it is put."""
    if not isinstance(name, str) or not 0 < len(name) <= 1000 or "\\" in name or not name.isprintable():
        return False
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == name


def is_file_facts(size: object, digest: object) -> bool:
    """Tell whether size and digest from elsewhere can be those of a file."""
    return type(size) is int and size >= 0 and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


def _weights(available: frozenset[str], directory: Path) -> set[str]:
    if WEIGHTS in available:
        return {WEIGHTS}
    if INDEX not in available:
        pickled = sorted(pickles(available))
        detail = f"only pickled ones ({', '.join(pickled[:3])})" if pickled else "none at all"
        raise ConfigurationError(f"has no weights as {WEIGHTS} or {INDEX}, {detail}.")
    shards = indexed_shards(directory / INDEX)
    if not all(map(is_plain_path, shards)):
        raise ConfigurationError(f"{INDEX} does not name the safetensors files that hold the weights.")
    return {INDEX, *shards}


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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED))
