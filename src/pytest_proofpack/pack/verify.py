"""Verifying a pack: an ordered machine in which every step gets only what the steps before it proved.

Nothing in the pack is imported, executed or used as configuration, and every file is read exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_proofpack.certificate.formats import FORMATS
from pytest_proofpack.certificate.older import lacking_words
from pytest_proofpack.common.nonsense import making_sense
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import moment, printable, shortened
from pytest_proofpack.errors import ConfigurationError, FormatError, VerificationError
from pytest_proofpack.pack import attestations
from pytest_proofpack.pack.attestations import AttestationReport
from pytest_proofpack.pack.check_agreement import check_agreement
from pytest_proofpack.pack.check_attestation import Attested, check_attestation, check_statement
from pytest_proofpack.pack.check_certificates import check_one_certificate
from pytest_proofpack.pack.check_files import check_files
from pytest_proofpack.pack.check_manifest import check_manifest
from pytest_proofpack.pack.check_signature import check_signature
from pytest_proofpack.pack.check_structure import check_structure
from pytest_proofpack.pack.check_verdict import check_verdict
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.layout import MANIFEST, is_certificate
from pytest_proofpack.pack.signers import signature_files
from pytest_proofpack.pack.snapshot import Snapshot, take_snapshot
from pytest_proofpack.pack.steps import Opened, Signed, StepOutcome, Structure
from pytest_proofpack.pack.terms.format import too_old
from pytest_proofpack.pack.terms.term import DemandResult, Judgement, Stated
from pytest_proofpack.pack.verified import Verified, verified_facts

SIGNATURE, PACK_MANIFEST, FILES, STRUCTURE = "signature", "manifest", "files", "structure"
AGREEMENT, VERDICT = "agreement", "verdict"
ATTESTATION, STATEMENT = "attestation", "statement"
"""Steps of packs that are attested, or have to be: who attests, and whether what is attested is so."""
MAX_FINDINGS = 50
"""Findings kept per step; the number of those left out is said."""
_MAX_LENGTH = 600


class Status(StrEnum):
    """How a step ended. ``NOT_REACHED``: a step that it builds on failed."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_REACHED = "not reached"


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
        not_covered: what no check looked at, a line each, even if every step passed.
        signed_at: when it was signed, as the signature says (``2026-01-31T12:00:00Z``); None if nothing says it.
        attestation: who attests the pack; None if nobody does, or what is there does not hold.
        unbound: a pack of InvarLock 0.3.7, taken only because unbound packs are accepted: ``ok`` says that its
            checksums agree, and nothing more.
        facts: what the pack says, where everything in it holds and could be recomputed; else None.
        demands: what was demanded beyond that, and whether it is met.
    """

    steps: tuple[StepResult, ...]
    signed: bool
    fingerprint: str | None
    pinned: bool
    verdict: str | None
    manifest_sha256: str | None
    not_covered: tuple[str, ...] = ()
    unbound: bool = False
    signed_at: str | None = None
    attestation: AttestationReport | None = None
    facts: Verified | None = None
    demands: tuple[DemandResult, ...] = ()

    @property
    def unmet(self) -> tuple[DemandResult, ...]:
        """The demands that are not met."""
        return tuple(demand for demand in self.demands if not demand.met)

    @property
    def accepted(self) -> bool:
        """Whether everything holds that the pack claims, and every demand is met."""
        return self.ok and not self.unmet

    @property
    def ok(self) -> bool:
        """Whether everything that the pack claims holds, as far as it is covered. Its verdict may still be FAIL."""
        return all(step.status is Status.PASSED for step in self.steps)

    @property
    def signer(self) -> str:
        """One sentence on who signed."""
        if not self.signed:
            attested = self.attestation is not None and self.attestation.pinned
            return "unsigned" if attested else "unsigned: nothing tells who made this pack"
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
                "signed_at": self.signed_at,
                "statement": self.signer,
            },
            "attestation": None
            if self.attestation is None
            else {"attester": self.attestation.attester, "pinned": self.attestation.pinned},
            "unbound": self.unbound,
            "not_covered": list(self.not_covered),
            "accepted": self.accepted,
            "demands": [demand.to_json() for demand in self.demands],
            "facts": self.facts.to_json() if self.facts is not None else None,
            "steps": [step.to_json() for step in self.steps],
        }


@dataclass
class _Proved:
    """What the steps so far have proved."""

    signed: Signed | None = None
    attested: Attested | None = None
    opened: Opened | None = None
    structure: Structure | None = None
    verdict: str | None = None
    facts: Verified | None = None
    results: dict[str, StepResult] = field(default_factory=dict)


class PackVerifier:
    """Verifies one pack, step by step, in any order: a step first runs what it builds on.

    Attributes:
        demands: what is demanded of it.
        steps: the ids of the steps in order: ``signature``, ``manifest``, ``files``, ``structure``,
            ``certificates[PATH]`` for every certificate, ``agreement``, ``verdict``; of a pack that is attested or has
            to be, ``attestation`` after the first of them and ``statement`` after the last.
    """

    def __init__(self, directory: Path, demands: Demands | None = None) -> None:
        """Read the pack; nothing is judged yet, and nothing parsed.

        Raises:
            ConfigurationError: ``directory`` is not a directory, or cannot be read.
            VerificationError: it holds far more than any pack.
        """
        if not directory.is_dir():
            file = ", but a file; unpack it if it is an archive" if directory.is_file() else ""
            raise ConfigurationError(f"{directory}: there is no such directory{file}. Name the directory of a pack.")
        self.demands = demands or Demands()
        self._snapshot = take_snapshot(directory)
        self._proved = _Proved()
        paths = sorted(path for path in self._snapshot.files if is_certificate(path) and path.isprintable())
        self._certificates = {f"certificates[{path}]": path for path in paths}
        attested = attestations.FILE in self._snapshot.files or self.demands.attesters.demanded
        first, last = ((ATTESTATION,), (STATEMENT,)) if attested else ((), ())
        middle = (PACK_MANIFEST, FILES, STRUCTURE, *self._certificates, AGREEMENT, VERDICT)
        self.steps: tuple[str, ...] = (SIGNATURE, *first, *middle, *last)

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
                below = "the certificates" if failed in self._certificates else failed
                results[step] = StepResult(step, Status.NOT_REACHED, note=f"{Status.NOT_REACHED}: {below} did not pass")
            else:
                results[step] = _result(step, self._judged(step))
        return results[step]

    def results(self) -> Iterator[StepResult]:
        """Run every step in order."""
        for step in self.steps:
            yield self.run(step)

    def report(self) -> VerificationReport:
        """Run whatever has not run yet, and return the whole result."""
        steps = tuple(self.results())
        proved, manifest = self._proved, self._snapshot.files.get(MANIFEST)
        signature = proved.signed.report if proved.signed is not None else None
        return VerificationReport(
            steps=steps,
            signed=not signature_files().isdisjoint(self._snapshot.files),
            fingerprint=signature.fingerprint if signature else None,
            pinned=bool(signature and signature.pinned),
            verdict=proved.verdict,
            manifest_sha256=manifest.sha256 if manifest else None,
            not_covered=not_covered(self._snapshot, proved.opened) if proved.opened is not None else (),
            unbound=proved.opened is not None and proved.opened.manifest is None,
            attestation=proved.attested.report if proved.attested is not None else None,
            signed_at=moment(signature.time) if signature and signature.time else None,
            facts=self.facts,
            demands=tuple(self.judge(stated) for stated in self.demands.stated),
        )

    def judge(self, stated: Stated) -> DemandResult:
        """Tell whether a demand is met; every step is run first, for nothing is known of a pack that does not hold.

        Raises:
            ConfigurationError: what it is to be compared with cannot be read.
        """
        facts = self.facts
        if stated.term.judge is None:
            step = self.run(SIGNATURE)
            noted = any(step.note in finding for finding in step.findings)
            told = step.findings if noted else (*step.findings, step.note)
            judgement = Judgement(step.status is Status.PASSED, "; ".join(told))
        elif facts is None:
            held = all(step.status is Status.PASSED for step in self.results())
            why = "nothing of this pack was recomputed" if held else "the pack is not verified"
            judgement = Judgement(False, why)
        else:
            judgement = self._judgement(stated, stated.term.judge, facts)
        return DemandResult(stated.term.name, _printable(stated.demand), judgement.met, _printable(judgement.why))

    def _judgement(self, stated: Stated, judge: Callable[[Any, Verified], Judgement], facts: Verified) -> Judgement:
        old = too_old(self.demands.min_format, facts) if stated.term.by_gates else None
        try:
            with making_sense():
                return old or judge(stated.value, facts)
        except FormatError as error:
            return Judgement(False, str(error))

    @cached_property
    def facts(self) -> Verified | None:
        """What the pack says, if every step passes and there is a manifest that binds it; else None."""
        return self._proved.facts if all(step.status is Status.PASSED for step in self.results()) else None

    @property
    def structure(self) -> Structure | None:
        """The pack's documents, if every step passes; else None: nobody is to read what does not hold."""
        return self._proved.structure if all(step.status is Status.PASSED for step in self.results()) else None

    def _below(self, step: str) -> tuple[str, ...]:
        """Return the steps that ``step`` builds on."""
        if step == SIGNATURE:
            return ()
        # Where no signature is demanded, whoever lacks the signer's key still learns whether all else holds.
        demanded = (SIGNATURE,) if self.demands.signed else ()
        if step == ATTESTATION:
            return demanded
        if step == PACK_MANIFEST:
            return (*demanded, ATTESTATION) if self.demands.attesters.demanded else demanded
        if step == STATEMENT:
            return (ATTESTATION, VERDICT)
        if step == AGREEMENT:
            return tuple(self._certificates) or (STRUCTURE,)
        if step == VERDICT:
            return (AGREEMENT,)
        return ({FILES: PACK_MANIFEST, STRUCTURE: FILES}.get(step, STRUCTURE),)

    def _judged(self, step: str) -> StepOutcome:
        """Judge one step; that what is judged makes no sense is a finding, wherever it comes out."""
        try:
            with making_sense():
                return self._judge(step)
        except FormatError as error:
            return StepOutcome((str(error),))

    def _judge(self, step: str) -> StepOutcome:
        proved, demands = self._proved, self.demands
        if step == SIGNATURE:
            outcome, proved.signed = check_signature(self._snapshot, demands)
            return outcome
        if step == ATTESTATION:
            outcome, proved.attested = check_attestation(self._snapshot, demands.attesters)
            return outcome
        if step == PACK_MANIFEST:
            self.run(SIGNATURE)
            outcome, proved.opened = check_manifest(
                self._snapshot, proved.signed, accept_unbound=demands.accept_unbound
            )
            return outcome
        if proved.opened is None:
            raise VerificationError(f"{step}: the manifest was not read first")
        if step == FILES:
            return check_files(proved.opened)
        if step == STRUCTURE:
            outcome, proved.structure = check_structure(proved.opened)
            return outcome
        if proved.structure is None:
            raise VerificationError(f"{step}: the structure was not proved first")
        if step == AGREEMENT:
            return check_agreement(proved.structure)
        if step == VERDICT:
            outcome, proved.verdict = check_verdict(proved.structure)
            proved.facts = None if outcome.findings else self._facts(proved.structure)
            return outcome
        if step == STATEMENT:
            assert proved.attested is not None
            return check_statement(proved.attested, proved.structure)
        return check_one_certificate(
            self._certificates[step], proved.structure, allow_unknown_guards=demands.allow_unknown_guards
        )

    def _facts(self, structure: Structure) -> Verified | None:
        """Return what a pack says whose every step up to the verdict has passed."""
        signed, verdict = self._proved.signed, self._proved.verdict
        if structure.manifest is None or verdict is None:
            return None
        return verified_facts(structure, structure.manifest, verdict, signed.report.time if signed else None)


def verify_pack(directory: Path, demands: Demands | None = None) -> VerificationReport:
    """Verify a pack.

    Raises:
        ConfigurationError: ``directory`` is not a directory, or cannot be read.
        VerificationError: it holds far more than any pack.
    """
    return PackVerifier(directory, demands).report()


def not_covered(snapshot: Snapshot, opened: Opened) -> tuple[str, ...]:
    """Return what no check looks at though every step passes."""
    if opened.manifest is None:
        bound = "no file of it is bound by a signature, and no number or verdict in it was recomputed"
        return (f"{bound}: {len(snapshot.files)} files are what whoever wrote checksums.sha256 chose",)
    pages = sum(path.endswith((".html", ".md")) for path in snapshot.files)
    people = f"what the pages for people say ({pages} of .html and .md): they are the maker's, bound by digest only"
    form = FORMATS[opened.document["schema_version"]]
    lacking = lacking_words(form)
    return (people, f"what gates of later formats would say: format {form.number} {lacking}") if lacking else (people,)


def _result(step: str, outcome: StepOutcome) -> StepResult:
    status = Status.FAILED if outcome.findings else Status.PASSED
    return StepResult(step, status, _shown(outcome.findings), _shown(outcome.warnings), _printable(outcome.note))


def _shown(lines: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(_printable(line) for line in lines[:MAX_FINDINGS])
    rest = len(lines) - len(shown)
    return (*shown, f"... and {rest} more") if rest else shown


def _printable(text: str) -> str:
    """Make a text of a pack safe to show, and cut what is too long to read."""
    return printable(shortened(text, _MAX_LENGTH))
