"""Looking sources up on the hub: the commit behind a branch, whether it may be used, and which of its files are needed.

What the hub answers is checked before it is used: the commit, and the name, size and digest of every file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils.tqdm import tqdm as hub_bar

from pytest_proofpack.common.problems import refuse
from pytest_proofpack.common.strict_json import MAX_BYTES
from pytest_proofpack.plan.pins import Pin, is_commit, now
from pytest_proofpack.sources.hub_cache import MAX_FILES, HubFile, Listing, is_file_facts, snapshot_directory
from pytest_proofpack.sources.hub_client import Hub, HubError, patiently
from pytest_proofpack.sources.hub_errors import REFUSALS, reason_of
from pytest_proofpack.sources.needed_files import helper_file, is_plain_path, needed_files
from pytest_proofpack.sources.source import Source, SourceKey

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


def look_up_all(hub: Hub, sources: Sequence[Source], pins: Mapping[SourceKey, Pin]) -> list[Repository]:
    """Look every source up, several at a time.

    Args:
        hub: which hub.
        sources: what to look up, each at the revision that is wanted.
        pins: what is known of some already.

    Raises:
        ConfigurationError: with one line for every source that cannot be used.
    """

    def look_up(source: Source) -> Repository | str:
        try:
            return _look_up(hub, source, pins.get(source.key))
        except REFUSALS as error:
            return f"{source}: {reason_of(error, source, hub)}"

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as threads:
        found = list(threads.map(look_up, sources))
    refuse([problem for problem in found if isinstance(problem, str)], "Nothing was downloaded.")
    return [repository for repository in found if isinstance(repository, Repository)]


def _look_up(hub: Hub, source: Source, pin: Pin | None) -> Repository:
    """Ask the hub about a source; ``pin`` is what an earlier run found, at the commit that is asked for now."""
    revision = source.revision
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
    wanted = needed_files(source, sorted(listing), directory)
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
        tqdm_class=SilentBar,
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


class SilentBar(hub_bar):
    """A progress bar that shows nothing, for logs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
