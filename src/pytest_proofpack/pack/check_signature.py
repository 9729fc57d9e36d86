"""The first step: the signature over the manifest's raw bytes, before anything of the pack is parsed."""

from __future__ import annotations

from pytest_proofpack.common.words import moment
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.layout import MANIFEST
from pytest_proofpack.pack.signers import SIGNERS
from pytest_proofpack.pack.snapshot import Snapshot
from pytest_proofpack.pack.steps import Signed, StepOutcome


def check_signature(snapshot: Snapshot, demands: Demands) -> tuple[StepOutcome, Signed | None]:
    """Check who signed the manifest, if anybody did; what the manifest says of that is read afterwards.

    Returns:
        The outcome, and the signature; None if there is none.
    """
    signed = _signature(snapshot, demands)
    if signed is None:
        caution = "the pack is unsigned"
        if not demands.attesters.demanded:
            caution += ": nothing tells who made it"
        lacking = ("the pack is unsigned, and a signature is required",) if demands.signed else ()
        return StepOutcome(lacking, (caution,), "unsigned"), None
    report = signed.report
    pinned = "pinned" if report.pinned else "not pinned"
    when = f" at {moment(report.time)}" if report.time else ""
    note = f"signed by {report.fingerprint}{when}, {pinned}" if report.fingerprint else ""
    return StepOutcome(report.findings, note=note), signed


def _signature(snapshot: Snapshot, demands: Demands) -> Signed | None:
    """Return the signature that holds, else the first there is.

    A pack has one; what lies there of another signer is an extra file, which the files' step names.
    """
    contents = snapshot.contents
    found = []
    for signer in SIGNERS.values():
        files = {name: contents[name] for name in signer.files if name in contents}
        if files and MANIFEST in contents:
            report = signer.verify(contents[MANIFEST], files, demands.trusted_keys, demands.key_files)
            found.append(Signed(signer, report))
    return next((signed for signed in found if not signed.report.findings), found[0] if found else None)
