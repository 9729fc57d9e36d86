"""The step that reads the manifest: whose format it is, whether it fits, and what it says of its signature."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, parse_json
from pytest_proofpack.common.words import moment
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.layout import CHECKSUMS, MANIFEST, is_certificate, layout_of
from pytest_proofpack.pack.manifest import Manifest, parse_manifest
from pytest_proofpack.pack.snapshot import Snapshot
from pytest_proofpack.pack.steps import Opened, Signed, StepOutcome
from pytest_proofpack.pack.unbound import is_unbound

MAX_BEFORE = timedelta(days=1)
"""How far before the manifest its signature may say that it was made: clocks differ, but not by days."""


def check_manifest(
    snapshot: Snapshot, signed: Signed | None = None, *, accept_unbound: bool = False
) -> tuple[StepOutcome, Opened | None]:
    """Read the manifest, within its budget.

    Args:
        snapshot: the pack's files.
        signed: the signature, if there is one.
        accept_unbound: whether a manifest of InvarLock 0.3.7, which binds no file, is a warning and not a finding.
    """
    missing = [name for name in (MANIFEST, CHECKSUMS) if name not in snapshot.contents]
    if missing:
        return StepOutcome(tuple(f"{name}: missing, or not a regular file" for name in missing)), None
    try:
        document = parse_json(
            snapshot.contents[MANIFEST], MANIFEST, max_bytes=BUDGETS.manifest_bytes, max_values=BUDGETS.json_values
        )
    except FormatError as error:
        return StepOutcome((str(error),)), None
    layout = layout_of(snapshot.files)
    if is_unbound(document):
        opened = Opened(snapshot, document, None, layout)
        return _unbound_outcome(snapshot, accepted=accept_unbound), opened if accept_unbound else None
    findings = [f"{MANIFEST}: {finding}" for finding in schema_findings("manifest", document)]
    if findings:
        return StepOutcome(tuple(findings)), None
    manifest = parse_manifest(document)
    opened = Opened(snapshot, document, manifest, layout)
    return StepOutcome(tuple(_claims_findings(opened, manifest, signed)), note=_note(document, manifest)), opened


def _note(document: JsonObject, manifest: Manifest) -> str:
    reason = f", unsigned ({manifest.signing.reason})" if manifest.signing.reason else ""
    return f"format {document['schema_version']}, {len(manifest.digests)} files{reason}"


def _unbound_outcome(snapshot: Snapshot, *, accepted: bool) -> StepOutcome:
    unbound = (
        f"{MANIFEST}: is one of InvarLock 0.3.7, which names files without their digests: no signature over it binds "
        "a single one of them, and anybody can take such a manifest for a pack of theirs"
    )
    uncovered = [f"signature does not cover {path}" for path in sorted(snapshot.files) if is_certificate(path)]
    if accepted:
        return StepOutcome(warnings=(unbound, *uncovered), note="binds no file")
    return StepOutcome((f"{unbound}. Take it all the same with --accept-unbound", *uncovered))


def _claims_findings(opened: Opened, manifest: Manifest, signed: Signed | None) -> Iterator[str]:
    """Name what the manifest says of its signature that is not so."""
    signing, signer = manifest.signing, opened.signer
    if signer is None:
        yield f"signed by {signing.signer!r}, a signer that is not installed here: it cannot be checked"
    elif signed is None:
        if signing.fingerprint is not None:
            yield f"{MANIFEST} says that it was signed, but {' and '.join(signer.files)} is missing"
    elif signed.signer is not signer:
        yield f"{MANIFEST} names the signer {signer.name!r}, but the signature is one of {signed.signer.name!r}"
    elif signed.report.fingerprint not in {None, signing.fingerprint}:
        yield f"signed by {signed.report.fingerprint}, but {MANIFEST} names {signing.fingerprint}"
    if signed is not None:
        yield from _time_findings(manifest, signed)


def _time_findings(manifest: Manifest, signed: Signed) -> Iterator[str]:
    try:
        generated = datetime.strptime(manifest.generated_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        yield f"{MANIFEST}: generated_at is {manifest.generated_at!r}, a time that there is not"
        return
    time = signed.report.time
    if time is not None and time < generated - MAX_BEFORE:
        yield (
            f"signed at {moment(time)}, more than a day before {MANIFEST} was made ({manifest.generated_at}): one of "
            "the two times is wrong"
        )
