"""One result for people: for a terminal, or for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_proofpack.certificate.explain import outcome_words, why_not
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.limits import describe
from pytest_proofpack.certificate.older import format_words
from pytest_proofpack.certificate.policy import limits_beside
from pytest_proofpack.common.plain_table import all_folded
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import ABSENT, limit, number, printable, shortened
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.facts_text import facts_lines, warned_lines
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.records import Strictness
from pytest_proofpack.report.markdown import code
from pytest_proofpack.results.columns import Columns, ratio_cells
from pytest_proofpack.results.opened import Results

MAX_ROWS = 200
_LONGEST = 60
_COLUMNS = Columns(
    ("model", "scenario", "demand", "ratio", "95 % interval", "limit", "KL", "outcome"),
    right={3, 4, 5, 6},
    dispensable=(0, 5, 2, 6, 4),
)


def show_text(results: Results, width: int | None = None) -> str:
    """Return a result for a terminal: of a verified pack what ``proofpack verify`` prints of it."""
    caution = () if results.facts is not None else results.caution  # of which the facts of a pack say it
    head = (f"{results.kind} {results.name}: {headline(results)}", results.standing, *caution)
    lines = [*all_folded(head, width), ""]
    if results.facts is not None:
        lines += facts_lines(results.facts, width)
    else:
        lines += _COLUMNS.text([_cells(edit) for edit in results.edits[:MAX_ROWS]], width)
        lines += all_folded(list(warned_lines(results.edits)), width)
    return "\n".join(lines) + "\n"


def show_markdown(results: Results) -> str:
    """Return a result as Markdown: the verdict, the edits that must pass, the others folded away."""
    edits = results.edits
    first = [edit for edit in edits if edit.strictness == Strictness.MUST_PASS or not edit.as_expected]
    rest = [edit for edit in edits if edit not in first]
    lines = [f"### {headline(results)}", "", *_facts(results), "", *_table(first)]
    if rest:
        what = "stress edits and injected errors, all as expected"
        lines += ["", "<details>", f"<summary>{len(rest)} {what}</summary>", "", *_table(rest), "", "</details>"]
    lines += ["", *_notes(results)]
    return "\n".join(lines).rstrip() + "\n"


def headline(results: Results) -> str:
    """Return verdict and suite in a line; its words are ours, or escaped."""
    doubt = "" if results.verified else "NOT VERIFIED, "
    if results.verdict is None:
        passed = all(row["passed"] for row in results.rows)
        older = format_words(format_of(results.certificates[0]))
        what = f"passed every gate{f' of {older}' if older else ''}" if passed else "failed"
        return f"{doubt}{len(results.certificates)} certificate{'' if len(results.certificates) == 1 else 's'}: {what}"
    expected = sum(row["as_expected"] for row in results.rows)
    told = f"{expected} of {len(results.rows)} certificates are what their scenarios demand"
    missing = f", {results.missing} {'is' if results.missing == 1 else 'are'} missing" if results.missing else ""
    return f"{doubt}{results.verdict}: {told}{missing}"


def show_json(results: Results) -> JsonObject:
    """Return a result as JSON; its strings are as the result has them."""
    return {
        "format": "proof-pack-summary-v1",
        **results.heading,
        "facts": results.facts.to_json() if results.facts is not None else None,
        "certificates": list(results.rows),
    }


def _facts(results: Results) -> Iterator[str]:
    one = results.certificates[0]
    meta, dataset, provenance = one["meta"], one["dataset"], one["policy_provenance"]
    models = list(dict.fromkeys(certificate["meta"]["model_id"] for certificate in results.certificates))
    revisions = {
        certificate["meta"]["model_id"]: certificate["meta"]["revision"] for certificate in results.certificates
    }
    for model in models[:MAX_ROWS]:
        revision = f" at {code(revisions[model])}" if revisions[model] else ""
        yield f"- model: {code(model)}{revision}"
    source = dataset.get("source") or {}
    named = f", {code(source['dataset'])} at {code(str(source['revision']))}" if source.get("dataset") else ""
    text = f"{code(dataset['provider'])} {code(dataset['split'])}{named}"
    yield f"- text: {text}; sha256 {code(dataset['hash']['text'][:16])}"
    yield f"- suite {code(meta['suite'])}, tier {code(provenance['tier'])}, profile {code(meta['profile'])}"
    if older := format_words(format_of(one)):
        yield f"- {older}"
    limits = limits_of(results)
    if limits:
        yield f"- limits: {code(limits)}"
    if results.time:
        yield f"- made {code(results.time)} by {code(one['provenance']['tool']['version'])} of pytest-proofpack"
    for key, value in list(results.manifest.get("meta", {}).items())[:MAX_ROWS]:
        yield f"- {code(key)}: {code(value)}"
    yield f"- {code(results.standing)}"


def limits_of(results: Results) -> str:
    """Return the limits of its own that a result was judged by, in words; empty if there are none."""
    provenance = results.certificates[0]["policy_provenance"]
    try:
        own = limits_beside(provenance["tier"], results.certificates[0]["meta"]["profile"], provenance["overrides"])
    except ConfigurationError:  # of what was not verified
        return "of its own, and none that make sense"
    return describe(own, provenance["tier"]) if own else ""


def _table(edits: Sequence[EditFacts]) -> list[str]:
    lines = _COLUMNS.markdown([_marked(edit) for edit in edits[:MAX_ROWS]])
    if len(edits) > MAX_ROWS:
        lines += ["", f"… and {len(edits) - MAX_ROWS} more."]
    return lines


def _marked(edit: EditFacts) -> list[str]:
    cells = _cells(edit)
    return cells if edit.as_expected else [*cells[:-1], f"**{cells[-1]}**"]


def _cells(edit: EditFacts) -> list[str]:
    strictness = Strictness(edit.strictness)
    return [
        printable(shortened(edit.model, _LONGEST)),
        printable(shortened(edit.scenario, _LONGEST)),
        strictness.value.replace("_", " "),
        *ratio_cells(edit),
        limit(edit.limit),
        ABSENT if edit.kl is None else number(edit.kl),
        outcome_words(strictness, passed=edit.passed, as_expected=edit.as_expected),
    ]


def _notes(results: Results) -> Iterator[str]:
    """Yield why what is not as expected is not, and what is with a warning."""
    for row in results.rows[:MAX_ROWS]:
        if not row["as_expected"]:
            name = f"{row['model']} {row['scenario']} run {row['run']}"
            yield f"- {code(shortened(name, 2 * _LONGEST))} FAILED: {code(why_not(row))}"
    yield from (f"- {code(line)}" for line in warned_lines(results.edits))
