"""Verifying a pack: an ordered machine in which every step gets only what the steps before it proved.

Nothing in the pack is imported, executed or used as configuration, and every file is read exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError, VerificationError
from pytest_proofpack.pack.check_verdict import check_verdict
from pytest_proofpack.pack.layout import MANIFEST, is_certificate
from pytest_proofpack.pack.signers import SignatureReport, normal_key, signature_files
from pytest_proofpack.pack.snapshot import take_snapshot
from pytest_proofpack.pack.steps import (
    StepOutcome,
    Structure,
    check_files,
    check_one_certificate,
    check_signature,
    check_structure,
)

STRUCTURE, FILES, SIGNATURE, VERDICT = "structure", "files", "signature", "verdict"
MAX_FINDINGS = 50
"""Findings kept per step; the number of those left out is said."""
_MAX_LENGTH = 600


class Status(StrEnum):
    """How a step ended. ``NOT_REACHED``: a step that it builds on failed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class VerifyOptions:
    """What the verifier demands.

    Attributes:
        trusted_keys: fingerprints; if there are any, the signature must be by one of them. Kept as 40 capital digits.
        require_signature: an unsigned pack fails.
        accept_unbound: a pack of InvarLock 0.3.7, whose signature covers names only and whose certificates carry no
            losses, passes with warnings.
        allow_unknown_guards: numbers of an extension's guard that is not registered here pass with warnings.

    Raises:
        ConfigurationError: a trusted key is not a full fingerprint.
    """

    trusted_keys: tuple[str, ...] = ()
    require_signature: bool = False
    accept_unbound: bool = False
    allow_unknown_guards: bool = False

    def __post_init__(self) -> None:
        """Bring the fingerprints into one form."""
        keys = tuple(normal_key(key, "trusted key") for key in self.trusted_keys)
        object.__setattr__(self, "trusted_keys", keys)


@dataclass(frozen=True)
class StepResult:
    """How one step ended. All text is printable: whatever a pack may hold is escaped."""

    step: str
    status: Status
    findings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    note: str = ""

    def to_json(self) -> JsonObject:
        """Return the JSON form."""
        return {
            "step": self.step,
            "status": self.status.value,
            "findings": list(self.findings),
            "warnings": list(self.warnings),
            "note": self.note,
        }


@dataclass(frozen=True)
class VerificationReport:
    """The result of verifying a pack.

    Attributes:
        steps: every step in order.
        signed: whether the pack holds a signature, good or not.
        fingerprint: primary fingerprint of the signer; None if unsigned or not checked.
        pinned: whether the signer is one of the trusted keys.
        verdict: the recomputed verdict; None if verification did not get so far, or there is nothing to recompute.
        manifest_sha256: digest of manifest.json; None if it is missing.
    """

    steps: tuple[StepResult, ...]
    signed: bool
    fingerprint: str | None
    pinned: bool
    verdict: str | None
    manifest_sha256: str | None

    @property
    def ok(self) -> bool:
        """Whether everything that the pack claims holds. The pack's verdict may still be FAIL."""
        return all(step.status is Status.PASSED for step in self.steps)

    @property
    def signer(self) -> str:
        """One sentence on who signed."""
        if not self.signed:
            return "unsigned: nothing tells who made this pack"
        if self.fingerprint is None:
            return "the signature could not be checked"
        if self.pinned:
            return f"signed by {self.fingerprint}, pinned"
        return f"signed by {self.fingerprint}, not pinned"

    def to_json(self) -> JsonObject:
        """Return the report as ``--proofpack-json`` writes it."""
        return {
            "format": "proof-pack-verification-v1",
            "ok": self.ok,
            "verdict": self.verdict,
            "manifest_sha256": self.manifest_sha256,
            "signature": {
                "signed": self.signed,
                "fingerprint": self.fingerprint,
                "pinned": self.pinned,
                "statement": self.signer,
            },
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass
class _Proved:
    """What the steps so far have proved."""

    structure: Structure | None = None
    signature: SignatureReport | None = None
    verdict: str | None = None
    results: dict[str, StepResult] = field(default_factory=dict)


class PackVerifier:
    """Verifies one pack, step by step, in any order: a step first runs what it builds on.

    Attributes:
        steps: the ids of the steps in order: ``structure``, ``files``, ``signature``, ``certificates[PATH]`` for every
            certificate, ``verdict``.
    """

    def __init__(self, directory: Path, options: VerifyOptions | None = None) -> None:
        """Read the pack; nothing is judged yet.

        Raises:
            ConfigurationError: ``directory`` is not a directory.
            VerificationError: it cannot be read, or holds far more than any pack.
        """
        if not directory.is_dir():
            raise ConfigurationError(f"{directory}: there is no such directory. Name the directory of a pack.")
        self._options = options or VerifyOptions()
        self._snapshot = take_snapshot(directory)
        self._proved = _Proved()
        paths = sorted(path for path in self._snapshot.files if is_certificate(path) and path.isprintable())
        self._certificates = {f"certificates[{path}]": path for path in paths}
        self.steps: tuple[str, ...] = (STRUCTURE, FILES, SIGNATURE, *self._certificates, VERDICT)

    def run(self, step: str) -> StepResult:
        """Run one step, and before it what it builds on; each runs once.

        Raises:
            ConfigurationError: there is no such step.
        """
        if step not in self.steps:
            raise ConfigurationError(f"{step!r} is not a step of verification")
        results = self._proved.results
        if step not in results:
            failed = next((below for below in self._below(step) if self.run(below).status is not Status.PASSED), None)
            if failed is not None:
                results[step] = StepResult(step, Status.NOT_REACHED, note=f"not reached: {failed} did not pass")
            else:
                results[step] = _result(step, self._judge(step))
        return results[step]

    def results(self) -> Iterator[StepResult]:
        """Run every step in order."""
        for step in self.steps:
            yield self.run(step)

    def report(self) -> VerificationReport:
        """Run whatever has not run yet, and return the whole result."""
        steps = tuple(self.results())
        signature = self._proved.signature
        manifest = self._snapshot.files.get(MANIFEST)
        return VerificationReport(
            steps=steps,
            signed=not signature_files().isdisjoint(self._snapshot.files),
            fingerprint=signature.fingerprint if signature else None,
            pinned=bool(signature and signature.pinned),
            verdict=self._proved.verdict,
            manifest_sha256=manifest.sha256 if manifest else None,
        )

    def _below(self, step: str) -> tuple[str, ...]:
        """Return the steps that ``step`` builds on."""
        if step == STRUCTURE:
            return ()
        if step in {FILES, SIGNATURE}:
            return (STRUCTURE,)
        return tuple(self._certificates) or (FILES,) if step == VERDICT else (FILES,)

    def _judge(self, step: str) -> StepOutcome:
        proved, options = self._proved, self._options
        if step == STRUCTURE:
            outcome, proved.structure = check_structure(self._snapshot)
            return outcome
        if proved.structure is None:
            raise VerificationError(f"{step}: the structure was not proved first")
        if step == FILES:
            return check_files(proved.structure)
        if step == SIGNATURE:
            outcome, proved.signature = check_signature(
                proved.structure,
                options.trusted_keys,
                required=options.require_signature,
                accept_unbound=options.accept_unbound,
            )
            return outcome
        if step == VERDICT:
            outcome, proved.verdict = check_verdict(proved.structure)
            return outcome
        return check_one_certificate(
            self._certificates[step],
            proved.structure,
            accept_unbound=options.accept_unbound,
            allow_unknown_guards=options.allow_unknown_guards,
        )


def verify_pack(directory: Path, options: VerifyOptions | None = None) -> VerificationReport:
    """Verify a pack.

    Raises:
        ConfigurationError: ``directory`` is not a directory.
        VerificationError: it cannot be read, or holds far more than any pack.
    """
    return PackVerifier(directory, options).report()


def _result(step: str, outcome: StepOutcome) -> StepResult:
    status = Status.FAILED if outcome.findings else Status.PASSED
    return StepResult(step, status, _shown(outcome.findings), _shown(outcome.warnings), _printable(outcome.note))


def _shown(lines: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(_printable(line) for line in lines[:MAX_FINDINGS])
    rest = len(lines) - len(shown)
    return (*shown, f"... and {rest} more") if rest else shown


def _printable(text: str) -> str:
    """Make a text of a pack safe to show, and cut what is too long to read."""
    return printable(text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} ...")
