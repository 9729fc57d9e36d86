"""The hub: what a run needs of it, resolved to commits, downloaded by commit and verified.

Sockets are opened within :func:`fetch` only; elsewhere in the process huggingface_hub's client stays offline. Every
repository that cannot be used is told of in one line, all of them at once.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from huggingface_hub import snapshot_download

from pytest_proofpack.common.files import free_space
from pytest_proofpack.common.problems import refuse
from pytest_proofpack.common.strict_json import MAX_BYTES
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, is_commit
from pytest_proofpack.sources.hub_cache import (
    repository_directory,
    snapshot_directory,
    snapshot_problem,
)
from pytest_proofpack.sources.hub_client import Hub, online
from pytest_proofpack.sources.hub_errors import REFUSALS, reason_of
from pytest_proofpack.sources.hub_lookup import Repository, SilentBar, look_up_all
from pytest_proofpack.sources.source import Snapshot, Source, SourceKey

Say = Callable[[str], None]


def fetch(hub: Hub, sources: Sequence[Source], pins: Mapping[SourceKey, Pin], say: Say) -> dict[SourceKey, Snapshot]:
    """Resolve every source to a commit, check that it may be used and fits the disk, download and verify it.

    Args:
        hub: which hub.
        sources: what to fetch.
        pins: commits that are decided already; anything else is resolved now.
        say: takes lines about progress.

    Raises:
        ConfigurationError: with one line for every source that is gated, private, missing, unreachable or damaged, or
            with sizes if the download does not fit the disk.
    """
    decided = [
        replace(source, revision=pins[source.key].revision) if source.key in pins else source for source in sources
    ]
    with online(hub.patience, MAX_BYTES):
        repositories = look_up_all(hub, decided, pins)
    for repository in repositories:
        say(_announcement(hub, repository))
    _require_space(hub, repositories)
    with online(hub.patience, max(map(_largest_file, repositories), default=0)):
        problems = [problem for repository in repositories if (problem := _download(hub, repository, say)) is not None]
        refuse(problems, "Run the same command again: what is complete is not downloaded twice.")
    return {
        repository.source.key: Snapshot(
            repository.pin,
            snapshot_directory(repository.source, repository.commit, hub.cache),
            repository.wanted,
        )
        for repository in repositories
    }


def _announcement(hub: Hub, repository: Repository) -> str:
    source, pin = repository.source, repository.pin
    total = sum(repository.listing[name].size or 0 for name in repository.wanted)
    absent = _absent_bytes(hub, repository)
    parts = [
        f"pinned to {source.revision}"
        if is_commit(source.revision)
        else f"{source.revision or 'default branch'} is commit {repository.commit}",
        f"license {pin.license}" if pin.license else "license unknown",
        f"{len(repository.wanted)} files, {data_size(total)}"
        + (", all in the cache" if absent == 0 else f", {data_size(absent)} to download"),
        repository.note,
    ]
    if source.license and pin.license != source.license:
        parts.append(f"the suite says license {source.license}")
    return f"{source}: " + "; ".join(filter(None, parts))


def _largest_file(repository: Repository) -> int:
    return max((repository.listing[name].size or 0 for name in repository.wanted), default=0)


def _absent_bytes(hub: Hub, repository: Repository) -> int:
    """Return how many bytes of the wanted files the cache does not have."""
    source, listing = repository.source, repository.listing
    snapshot = snapshot_directory(source, repository.commit, hub.cache)
    blobs = repository_directory(source, hub.cache) / "blobs"
    absent = {
        listing[name].digest: listing[name].size or 0
        for name in repository.wanted
        if not (snapshot / name).exists() and not (blobs / listing[name].digest).exists()
    }
    return sum(absent.values())


def _require_space(hub: Hub, repositories: Sequence[Repository]) -> None:
    needed = sum(_absent_bytes(hub, repository) for repository in repositories)
    free = free_space(hub.cache).bytes
    if needed > free:
        raise ConfigurationError(
            f"the download needs {data_size(needed)}, but only {data_size(free)} are free in {hub.cache}. Free some, "
            "or name a cache on another disk with the variable HF_HOME. Nothing was downloaded."
        )


def _download(hub: Hub, repository: Repository, say: Say) -> str | None:
    """Download what is missing of a repository, check all that is needed, and return what is wrong, if anything is."""
    source, commit = repository.source, repository.commit
    if _absent_bytes(hub, repository):
        say(f"{source}: downloading")
    try:
        snapshot_download(
            source.id,
            repo_type=source.kind,
            revision=commit,
            endpoint=hub.endpoint,
            cache_dir=hub.cache,
            etag_timeout=hub.patience.timeout,
            allow_patterns=[glob.escape(name) for name in repository.wanted],
            tqdm_class=None if sys.stderr.isatty() else SilentBar,
        )
    except REFUSALS as error:
        return f"{source}: {reason_of(error, source, hub)}"
    return snapshot_problem(source, commit, repository.listing, hub.cache)
