"""The hub: revisions resolved to commits, and files downloaded by commit, through huggingface_hub's own client.

This is the only module that opens a socket, and only within :func:`fetch`. Elsewhere in the process the client stays
offline. Every repository that cannot be used is told of in one line, all of them at once.
"""

from __future__ import annotations

import glob
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.utils.tqdm import tqdm as hub_bar

from pytest_proofpack.common.strict_json import MAX_BYTES
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, is_commit, now
from pytest_proofpack.sources.hub_cache import (
    MAX_FILES,
    HubFile,
    Listing,
    existing_folder,
    helper_file,
    is_file_facts,
    is_plain_path,
    repository_directory,
    snapshot_directory,
    snapshot_problem,
    wanted_files,
)
from pytest_proofpack.sources.hub_client import REFUSALS, Hub, HubError, online, patiently, reason_of
from pytest_proofpack.sources.pinning import Found, Place, Source, refuse

Say = Callable[[str], None]

_AT_ONCE = 8
_LICENSE_LENGTH = 400


@dataclass(frozen=True)
class Repository:
    """A source, looked up.

    Attributes:
        source: what was asked for.
        pin: the commit, and what the hub says of the repository.
        listing: every file at that commit.
        wanted: the files that the run needs.
        note: why a gated or private repository may be used; empty for others.
    """

    source: Source
    pin: Pin
    listing: Listing
    wanted: tuple[str, ...]
    note: str = ""

    @property
    def commit(self) -> str:
        """The pinned commit."""
        return str(self.pin.revision)


def fetch(hub: Hub, sources: Sequence[Source], pins: Mapping[Place, Pin], say: Say) -> dict[Place, Found]:
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
        replace(source, asked=pins[source.place].revision) if source.place in pins else source for source in sources
    ]
    with online(hub.patience):
        repositories = _look_up_all(hub, decided, pins)
        for repository in repositories:
            say(_announcement(hub, repository))
        _require_space(hub, repositories)
        problems = [problem for repository in repositories if (problem := _download(hub, repository, say)) is not None]
        refuse(problems, "Run the same command again: what is complete is not downloaded twice.")
    return {
        repository.source.place: Found(
            repository.pin,
            snapshot_directory(repository.source, repository.commit, hub.cache),
            repository.wanted,
        )
        for repository in repositories
    }


def _look_up_all(hub: Hub, sources: Sequence[Source], pins: Mapping[Place, Pin]) -> list[Repository]:
    def look_up(source: Source) -> Repository | str:
        try:
            return _look_up(hub, source, pins.get(source.place))
        except REFUSALS as error:
            return f"{source}: {reason_of(error, source, hub)}"

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
        found = list(threads.map(look_up, sources))
    refuse([problem for problem in found if isinstance(problem, str)], "Nothing was downloaded.")
    return [repository for repository in found if isinstance(repository, Repository)]


def _look_up(hub: Hub, source: Source, pin: Pin | None) -> Repository:
    """Ask the hub about a source; ``pin`` is what an earlier run found, at the commit that is asked for now."""
    revision = source.asked
    info: Any = patiently(
        hub,
        lambda: hub.api.repo_info(
            source.id,
            repo_type=source.kind,
            revision=revision,
            files_metadata=True,
            timeout=hub.patience.timeout,
        ),
    )
    commit = info.sha
    if not is_commit(commit) or (is_commit(revision) and commit != revision):
        raise HubError(f"asked for {revision or 'the default branch'}, the hub answers with commit {commit!r}")
    if info.disabled:
        raise HubError("the hub has disabled it")
    note = _access_note(hub, source, info)
    listing = _listing(info.siblings)
    directory = snapshot_directory(source, commit, hub.cache)
    helper = helper_file(source, listing)
    if helper is not None:
        _fetch_helper(hub, source, commit, helper, listing)
    wanted = wanted_files(source, sorted(listing), directory)
    lost = [name for name in wanted if name not in listing]
    if lost:
        raise HubError(f"{helper} names {', '.join(lost[:3])}, which commit {commit[:12]} does not have")
    moment = pin.resolved_at if pin is not None and pin.resolved_at is not None else now()
    facts = Pin(commit, moment, bool(info.gated), bool(info.private), _license(info) or source.license)
    return Repository(source, facts, listing, wanted, note)


def _access_note(hub: Hub, source: Source, info: Any) -> str:
    """Return why a gated or private repository may be used; the client raises if it may not."""
    if not info.gated and not info.private:
        return ""
    patiently(hub, lambda: hub.api.auth_check(source.id, repo_type=source.kind))
    what = f"gated ({info.gated})" if info.gated else "private"
    return f"{what}, and used because your token was granted access to it"


def _listing(siblings: Any) -> dict[str, HubFile]:
    """Return the files of a hub's answer, checked."""
    if not siblings or len(siblings) > MAX_FILES:
        raise HubError(f"the hub lists {len(siblings or ())} files; expected 1 to {MAX_FILES}")
    listing: dict[str, HubFile] = {}
    for file in siblings:
        size, digest = (file.size, file.blob_id) if file.lfs is None else (file.lfs.size, file.lfs.sha256)
        if not is_plain_path(file.rfilename) or not is_file_facts(size, digest):
            raise HubError(f"the hub lists a file that cannot be one: {str(file.rfilename)[:100]!r}")
        listing[file.rfilename] = HubFile(size, digest)
    return listing


def _fetch_helper(hub: Hub, source: Source, commit: str, name: str, listing: Listing) -> None:
    """Download the small file that tells which others are needed."""
    if (listing[name].size or 0) > MAX_BYTES:
        raise HubError(f"{name} has {listing[name].size} bytes, more than the {MAX_BYTES} allowed")
    hf_hub_download(
        source.id,
        name,
        repo_type=source.kind,
        revision=commit,
        endpoint=hub.endpoint,
        cache_dir=hub.cache,
        etag_timeout=hub.patience.timeout,
        tqdm_class=_SilentBar,
    )


def _license(info: Any) -> str | None:
    """Return the licence that a repository's card names; ``other`` stands for the name that comes with it."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    license_ = card.get("license")
    if license_ == "other":
        license_ = card.get("license_name", license_)
    if isinstance(license_, list):
        license_ = ", ".join(str(name) for name in license_)
    return license_[:_LICENSE_LENGTH] if isinstance(license_, str) else None


def _announcement(hub: Hub, repository: Repository) -> str:
    source, pin = repository.source, repository.pin
    total = sum(repository.listing[name].size or 0 for name in repository.wanted)
    absent = _absent_bytes(hub, repository)
    parts = [
        f"pinned to {source.asked}"
        if is_commit(source.asked)
        else f"{source.asked or 'default branch'} is commit {repository.commit}",
        f"license {pin.license}" if pin.license else "license unknown",
        f"{len(repository.wanted)} files, {data_size(total)}"
        + (", all in the cache" if absent == 0 else f", {data_size(absent)} to download"),
        repository.note,
    ]
    if source.license and pin.license != source.license:
        parts.append(f"the suite says license {source.license}")
    return f"{source}: " + "; ".join(filter(None, parts))


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
    free = shutil.disk_usage(existing_folder(hub.cache)).free
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
            tqdm_class=None if sys.stderr.isatty() else _SilentBar,
        )
    except REFUSALS as error:
        return f"{source}: {reason_of(error, source, hub)}"
    return snapshot_problem(source, commit, repository.listing, hub.cache)


class _SilentBar(hub_bar):
    """A progress bar that shows nothing, for logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
