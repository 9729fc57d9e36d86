"""The invariants guard: has the subject the structure of its baseline, and only finite numbers?

The metric alone lets structural damage through: a missing norm, a changed vocabulary or an untied head can leave
perplexity where it was. What a difference is worth (fatal or warning) is policy; what counts as one is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import INVARIANTS, NAMES_SHOWN, Block, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.invariants_schema import SCHEMA
from pytest_proofpack.guards.structure import StructureMeasure, differences
from pytest_proofpack.guards.vocabulary_growth import GROWN, has_grown, keeps_vocabulary

_STRUCTURAL_KINDS = frozenset(
    {
        "config",
        "config_unknown",
        "dtype",
        "missing_tensors",
        "norm_modules",
        "shape",
        "tying",
        "unexpected_tensors",
        GROWN,
    }
)


@dataclass(frozen=True)
class Violation:
    """One kind of difference: how many places it has, the first few of them, and what was found."""

    kind: str
    severity: str
    count: int
    names: tuple[str, ...]
    message: str

    def to_json(self) -> JsonObject:
        """Return the JSON form recorded in the certificate."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "count": self.count,
            "names": list(self.names),
            "message": self.message,
        }


def compare_structure(
    baseline: StructureMeasure, subject: StructureMeasure, policy: Mapping[str, Any], label: str | None = None
) -> tuple[Violation, ...]:
    """List every structural difference between baseline and subject, most severe first.

    Args:
        baseline: the baseline's structure.
        subject: the subject's.
        policy: the ``invariants`` section: lists of kinds under ``fatal`` and ``warning``.
        label: what the edit of a subject that was loaded is called; None of a model edited in memory.
    """
    graded = [
        Violation(kind, severity_of(kind, policy, label), len(names), tuple(names[:NAMES_SHOWN]), message)
        for kind, names, message in differences(baseline, subject, grew=label is not None)
    ]
    return tuple(sorted(graded, key=lambda violation: (violation.severity != "fatal", violation.kind)))


def severity_of(kind: str, policy: Mapping[str, Any], label: str | None = None) -> str:
    """Return ``"warning"`` for kinds that the policy lists as warnings, ``"fatal"`` for everything else.

    A vocabulary that grew is fatal, whatever the policy, where the label of the edit says that only values changed.
    """
    if kind == GROWN and (label is None or keeps_vocabulary(label)):
        return "fatal"
    return "warning" if kind in policy["warning"] else "fatal"


def status_of(severities: Iterable[str]) -> str:
    """Return ``"pass"``, ``"warn"`` or ``"fail"`` for the severities of a certificate's violations."""
    found = set(severities)
    return "fail" if found - {"warning"} else ("warn" if found else "pass")


def derive_invariants(block: Mapping[str, Any], rules: Mapping[str, Any], label: str | None = None) -> JsonObject:
    """Return what follows from a certificate's ``invariants`` block: its status and counts of violations.

    Args:
        block: the evidence.
        rules: the ``invariants`` section of the policy.
        label: what the edit of a subject that was loaded is called; None of a model edited in memory.

    Raises:
        FormatError: the list of violations contradicts the facts beside it, or a severity the policy.
    """
    severities = [severity_of(violation["kind"], rules, label) for violation in block["violations"]]
    if [violation["severity"] for violation in block["violations"]] != severities:
        raise FormatError("invariants: a violation carries another severity than the policy gives its kind")
    baseline, subject = block["baseline"], block["subject"]
    kinds = {violation["kind"] for violation in block["violations"]}
    if GROWN in kinds and (label is None or not has_grown(baseline["vocabulary"], subject["vocabulary"])):
        raise FormatError("invariants: the vocabulary is said to have grown, and its sizes do not say so")
    shared = subject.get("non_finite_shared", 0)
    if shared > min(baseline["non_finite"], subject["non_finite"]):
        raise FormatError("invariants: more values that are not finite are shared than there are")
    for what, differs, explained in (
        ("the count of non-finite values", subject["non_finite"] > shared, "non_finite" in kinds),
        ("the tied tensors", _tying(subject) != _tying(baseline), "tying" in kinds),
        ("the vocabulary sizes", subject["vocabulary"] != baseline["vocabulary"], bool(kinds & {"vocabulary", GROWN})),
        ("the tokenizers", subject.get("tokenizer") != baseline.get("tokenizer"), "tokenizer" in kinds),
        ("the digests of the structures", subject["sha256"] != baseline["sha256"], bool(kinds & _STRUCTURAL_KINDS)),
    ):
        if differs != explained:
            raise FormatError(f"invariants: the list of violations contradicts {what}")
    if subject["sha256"] == baseline["sha256"]:
        for count in ("tensors", "norm_modules"):
            if subject[count] != baseline[count]:
                raise FormatError(f"invariants: structures of one digest cannot differ in {count}")
    return {
        "evaluated": True,
        "status": status_of(severities),
        "fatal_violations": sum(severity == "fatal" for severity in severities),
        "warning_violations": sum(severity == "warning" for severity in severities),
    }


def _tying(facts: Mapping[str, Any]) -> tuple[set[tuple[str, ...]], bool]:
    return {tuple(group) for group in facts["tied"]}, facts["config_tied"]


def _words(block: Block, _: Rules) -> Words:
    return f"fatal: {block['fatal_violations']}, warnings: {block['warning_violations']}", "no fatal violation"


def _structure(facts: JsonObject) -> JsonObject:
    """Return what is said of a structure wherever it is compared: a tokenizer only beside a loaded checkpoint's."""
    return {key: value for key, value in facts.items() if key != "tokenizer"}


INVARIANTS_GUARD = Guard(
    name="invariants",
    judges="structure, and that every value is finite",
    evidence=frozenset({"baseline", "subject", "violations", "tensors", "sublayers"}),
    derive=lambda block, rules, case: derive_invariants(block, rules, case.edit["type"] if case.loaded else None),
    gates=(
        Gate(
            "invariants_pass",
            lambda block: block["status"] != "fail",
            _words,
            title="structure",
        ),
    ),
    signal=INVARIANTS,
    warnings={"invariants": lambda block: block["status"] == "warn"},
    section="invariants",
    shared=Shared(
        model=lambda block: {
            "structure of the baseline": _structure(block["baseline"]),
            "what there is to judge": [block.get("tensors"), block.get("sublayers")],
        },
        edited=lambda block: {"structure of the edited model": block["subject"], "violations": block["violations"]},
    ),
    schema=SCHEMA,
)
