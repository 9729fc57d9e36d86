"""A result under another policy: the gates of every certificate again, and the verdict that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pytest_proofpack.certificate.explain import gate_words
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.limits import describe
from pytest_proofpack.certificate.policy import Policy, limits_beside
from pytest_proofpack.certificate.rejudge import rejudge
from pytest_proofpack.certificate.verdict import certificate_key, compute_verdict, row_key
from pytest_proofpack.common.plain_table import all_folded
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import ABSENT, printable, ratio, shortened
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.report.formatting import counted
from pytest_proofpack.report.markdown import code
from pytest_proofpack.results.columns import Columns
from pytest_proofpack.results.opened import Results, row_alone

FORMAT = "proof-pack-rejudged-v1"
_COLUMNS = Columns(
    ("model", "scenario", "run", "demand", "ratio", "before", "by this policy", "expected"),
    right={2, 4},
    dispensable=(0, 3, 4),
)
_LONGEST = 40


@dataclass(frozen=True)
class Judgement:
    """One certificate, before and by the other policy.

    Attributes:
        row: the verdict's row before.
        other: the row by the other policy; None if it cannot be judged again.
        kept: what was judged as before, and why.
    """

    row: JsonObject
    other: JsonObject | None
    kept: tuple[str, ...]


@dataclass(frozen=True)
class Rejudgement:
    """A result by another policy.

    Attributes:
        results: the result.
        policy: the other policy.
        profile: the profile that it was resolved with.
        verdict: ``PASS`` or ``FAIL`` by it; a certificate alone passes or fails.
        judgements: every certificate.
    """

    results: Results
    policy: Policy
    profile: str
    verdict: str
    judgements: tuple[Judgement, ...]

    @property
    def told(self) -> str:
        """The policy in words."""
        own = limits_beside(self.policy.tier, self.profile, self.policy.overrides)
        limits = f", limits: {describe(own, self.policy.tier)}" if own else ""
        return f"tier {self.policy.tier}, profile {self.profile}{limits}"

    def to_json(self) -> JsonObject:
        """Return the JSON form; its strings are as the result has them."""
        return {
            "format": FORMAT,
            "name": self.results.name,
            "verified": self.results.verified,
            "standing": self.results.standing,
            "policy": {
                "tier": self.policy.tier,
                "profile": self.profile,
                "overrides": self.policy.overrides,
                "digest": self.policy.digest,
            },
            "verdict_before": self.results.verdict,
            "verdict": self.verdict,
            "certificates": [
                {"before": one.row, "after": one.other, "kept": list(one.kept)} for one in self.judgements
            ],
        }


def rejudge_results(results: Results, policy: Policy, profile: str) -> Rejudgement:
    """Judge every certificate of a result by another policy, and count the verdict again.

    A certificate that cannot be judged again is missing from the verdict, which then fails.
    """
    rejudged = [rejudge(certificate, policy, profile) for certificate in results.certificates]
    made = [one.certificate for one in rejudged if one.certificate is not None]
    if results.scenarios:
        form = format_of(results.certificates[0])
        verdict = compute_verdict(dict(results.scenarios), made, form.sha256)
        rows, outcome = verdict["certificates"], verdict["verdict"]
    else:
        rows = [row_alone(certificate) for certificate in made]
        outcome = "PASS" if len(made) == len(rejudged) and all(row["as_expected"] for row in rows) else "FAIL"
    others = {row_key(row): row for row in rows}
    kept = {certificate_key(one): again.kept for one, again in zip(results.certificates, rejudged, strict=True)}
    judgements = (Judgement(row, others.get(row_key(row)), kept[row_key(row)]) for row in results.rows)
    return Rejudgement(results, policy, profile, outcome, tuple(judgements))


def rejudged_text(found: Rejudgement, width: int | None = None) -> str:
    """Return it for a terminal."""
    shown = _shown(found)
    head = (f"{found.results.kind} {found.results.name}; {found.results.standing}", f"judged by {found.told}")
    lines = [
        *all_folded(head, width),
        "",
        *_COLUMNS.text([_cells(one) for one in shown], width),
        *all_folded(_blocks(shown), width),
        *_hidden(found, shown),
        *(["", *notes] if (notes := list(all_folded(_notes(found), width))) else []),
        "",
        f"verdict: {found.results.verdict or ABSENT}, by this policy {found.verdict}",
    ]
    return "\n".join(lines) + "\n"


def rejudged_markdown(found: Rejudgement) -> str:
    """Return it as Markdown."""
    shown = _shown(found)
    gates = [f"- {code(_name(one))}: {code(line)}" for one in shown for line in _gates(one)]
    lines = [
        f"**By {code(found.told)}: {found.verdict}** (before: {found.results.verdict or ABSENT})",
        "",
        f"- {found.results.kind} {code(found.results.name)}; {code(found.results.standing)}",
        *(f"- {code(line)}" for line in _notes(found)),
        "",
        *_COLUMNS.markdown([_cells(one) for one in shown]),
        *(["", *gates] if gates else []),
        *_hidden(found, shown),
    ]
    return "\n".join(lines) + "\n"


def _shown(found: Rejudgement) -> list[Judgement]:
    """Return the certificates that are shown: those judged otherwise, those not as expected, and what must pass."""
    return [one for one in found.judgements if _tells(one)]


def _tells(one: Judgement) -> bool:
    if one.other is None or not one.other["as_expected"] or one.other["failed_gates"] != one.row["failed_gates"]:
        return True
    return bool(one.row["strictness"] == Strictness.MUST_PASS and one.row["category"] != "calibration")


def _hidden(found: Rejudgement, shown: list[Judgement]) -> list[str]:
    rest = len(found.judgements) - len(shown)
    return ["", f"{rest} more are judged as before."] if rest else []


def _cells(one: Judgement) -> tuple[str, ...]:
    row, other = one.row, one.other
    return (
        printable(shortened(row["model"], _LONGEST)),
        printable(shortened(row["scenario"], _LONGEST)),
        str(row["run"]),
        Strictness(row["strictness"]).value.replace("_", " "),
        ratio(row["ratio"]) if "ratio" in row else ABSENT,
        _outcome(row),
        "cannot be judged" if other is None else _outcome(other),
        "NO" if other is None or not other["as_expected"] else "yes",
    )


def _outcome(row: JsonObject) -> str:
    failed = row["failed_gates"]
    return "passes" if not failed else f"fails {gate_words(failed[0]) if len(failed) == 1 else f'{len(failed)} gates'}"


def _gates(one: Judgement) -> Iterator[str]:
    """Yield which gates fail, where the table only counts them."""
    for when, row in (("before", one.row), ("by this policy", one.other)):
        if row is not None and len(row["failed_gates"]) > 1:
            yield f"{when} fails {', '.join(map(gate_words, row['failed_gates']))}"


def _blocks(shown: list[Judgement]) -> Iterator[str]:
    for one in shown:
        if gates := [f"  {line}" for line in _gates(one)]:
            yield from ("", _name(one), *gates)


def _name(one: Judgement) -> str:
    row = one.row
    return printable(shortened(f"{row['model']} {row['scenario']}", 2 * _LONGEST)) + f" run {row['run']}"


def _notes(found: Rejudgement) -> Iterator[str]:
    """Yield what was not judged again, with how many certificates that is."""
    counts = Counter(line for one in found.judgements for line in one.kept)
    for line, count in counts.items():
        yield f"not judged again: {printable(shortened(line, 200))} ({counted(count, 'certificate')})"
