"""``index.html`` and ``README.md``: a whole run at a glance, and how a stranger checks its pack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pytest_proofpack.certificate.explain import (
    NOT_CAUGHT,
    gate_words,
    is_uncaught,
    outcome_word,
    warning_words,
)
from pytest_proofpack.certificate.policy import policy_words
from pytest_proofpack.certificate.repeats import describe
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.records import Category, Strictness
from pytest_proofpack.report import formatting
from pytest_proofpack.report.forest import Axis, Plot, forest_axis, forest_plot
from pytest_proofpack.report.own_limits import limits_words
from pytest_proofpack.report.rendering import inline_file, relative_url, render
from pytest_proofpack.report.run_facts import run_facts

Key = tuple[str, str, int]
Links = Mapping[Key, str]
"""Relative path of a report by model id, scenario id and run."""

SIGNED = "signed"
"""The signing status that says there is a signature; every other one means that there is none."""

_CATEGORIES = {
    Category.CALIBRATION: "nothing edited",
    Category.CLEAN: "clean edit",
    Category.STRESS: "stress edit",
    Category.ERROR: "injected error",
    Category.BYOE: "edited elsewhere",
}
_ASKED = {
    Strictness.MUST_PASS: "must pass",
    Strictness.MUST_FAIL: "must be caught",
    Strictness.MUST_DETECT: "must be caught",
    Strictness.INFORMATIONAL: "for information",
}
_MET = {
    Strictness.MUST_PASS: "that must pass passed",
    Strictness.MUST_FAIL: "that must fail were caught",
    Strictness.MUST_DETECT: "that must be detected were caught",
    Strictness.INFORMATIONAL: "for information",
}


class SignerWords(Protocol):
    """The words of ours with which a signer is described: see :class:`pytest_proofpack.pack.signers.Signer`."""

    files: Mapping[str, str]
    check_by_hand: str
    caution: str


@dataclass(frozen=True)
class Row:
    """One certificate on the run's page, or one that there should be.

    Attributes:
        model, scenario, run: what it is of; ``run`` is empty where a scenario is left out.
        kind: what the scenario is for, and what is demanded of it.
        word: how it stands, one of PASSED, CAUGHT, INFO, FAILED, MISSING and LEFT OUT.
        sign: ``good``, ``bad`` or none.
        ratio, interval, divergence, agreement: as text.
        gates: the gates that failed, in words, or why it is left out, or that nothing caught the damage.
        keys: by column, what it is sorted by.
        plot: the row of the forest plot; None without a certificate.
        url: quoted relative URL of its page.
    """

    model: str
    scenario: str
    run: str
    kind: str
    word: str
    sign: str
    ratio: str = formatting.ABSENT
    interval: str = formatting.ABSENT
    divergence: str = formatting.ABSENT
    agreement: str = formatting.ABSENT
    gates: str = ""
    keys: Mapping[str, float] = field(default_factory=dict)
    plot: Plot | None = None
    url: str | None = None


def index_html(
    verdict: JsonObject, manifest_facts: JsonObject, links: Links, certificates: Iterable[JsonObject] = ()
) -> str:
    """Return the page of a whole run.

    Args:
        verdict: as :func:`pytest_proofpack.certificate.verdict.compute_verdict` makes it.
        manifest_facts: ``suite``, ``generated_at``, ``determinism``, ``determinism_repeats``, ``network_mode``,
            ``models``, ``tool``, ``signing``; what is missing is left out.
        links: where the report of a certificate lies; a certificate without one is shown without a link.
        certificates: those of the verdict, as far as more than the verdict is to be shown of them.

    Raises:
        FormatError: a link does not lie below the page's own folder.
    """
    entries = [*verdict["certificates"], *verdict["missing"], *verdict["skipped"]]
    models = formatting.unique([*_model_ids(manifest_facts), *(entry["model"] for entry in entries)])
    repeats = manifest_facts.get("determinism_repeats")
    by_key = {certificate_key(certificate): certificate for certificate in certificates}
    axis = forest_axis(verdict["certificates"], [_limit(certificate) for certificate in by_key.values()])
    return render(
        "index.html.j2",
        script=inline_file("index.js"),
        verdict=verdict,
        repeats=describe(repeats) if repeats is not None else None,
        facts=manifest_facts,
        run_facts=run_facts(list(by_key.values())),
        own_limits=formatting.unique(filter(None, map(limits_words, by_key.values()))),
        signed=_is_signed(manifest_facts),
        models=models,
        revisions={entry["model_id"]: entry.get("revision") for entry in manifest_facts.get("models", [])},
        axis=axis,
        rows=_rows(verdict, models, by_key, links, axis),
        met={kind.value: text for kind, text in _MET.items()},
    )


def pack_readme(manifest_facts: JsonObject, signer: SignerWords, attestation: str | None = None) -> str:
    """Return the README.md of a pack.

    Args:
        manifest_facts: as in :func:`index_html`, and the ``verdict`` and ``judged_by`` (texts, see :func:`judged_by`)
            if known.
        signer: the one that signed, or that would have.
        attestation: name of the file with the attestation; None if there is none.
    """
    return render(
        "pack_readme.md.j2",
        facts=manifest_facts,
        signed=_is_signed(manifest_facts),
        signer=signer,
        attestation=attestation,
    )


def judged_by(certificates: Iterable[JsonObject]) -> list[str]:
    """Return in words what certificates were judged by: the tier with the ratio's limit, and limits of the maker's."""
    return formatting.unique(
        policy_words(one["policy_provenance"]["tier"], one["meta"]["profile"], one["resolved_policy"])
        + (f"; limits: {own}" if (own := limits_words(one)) else "")
        for one in certificates
    )


def _is_signed(facts: JsonObject) -> bool:
    return bool(facts.get("signing", {}).get("status") == SIGNED)


def _model_ids(facts: JsonObject) -> Iterable[str]:
    return (entry["model_id"] for entry in facts.get("models", []))


def _rows(
    verdict: JsonObject, models: list[str], certificates: Mapping[Key, JsonObject], links: Links, axis: Axis
) -> list[Row]:
    """Return a row per certificate, missing ones and scenarios left out included, by model in the verdict's order."""
    entries = [*verdict["certificates"], *verdict["missing"], *verdict["skipped"]]
    scenarios = formatting.unique(entry["scenario"] for entry in entries)
    ordered = sorted(
        entries,
        key=lambda entry: (models.index(entry["model"]), scenarios.index(entry["scenario"]), entry.get("run", 0)),
    )
    kinds = {row["scenario"]: _heading(row) for row in verdict["certificates"]}
    made = []
    for entry in ordered:
        key = (entry["model"], entry["scenario"], entry.get("run", 0))
        kind = kinds.get(entry["scenario"], "")
        if "passed" in entry:
            path = links.get(key)
            url = relative_url(path) if path else None
            made.append(_row(entry, kind, certificates.get(key), axis, url))
        elif "reason" in entry:
            made.append(Row(*key[:2], "", kind, "LEFT OUT", "", gates=f"left out: {entry['reason']}"))
        else:
            made.append(Row(*key[:2], str(entry["run"]), kind, "MISSING", "bad", gates="no certificate"))
    return made


def _row(entry: Mapping[str, Any], kind: str, certificate: JsonObject | None, axis: Axis, url: str | None) -> Row:
    word = outcome_word(Strictness(entry["strictness"]), as_expected=entry["as_expected"])
    warned = [warning_words(name) for name in entry["warnings"]] if word == "PASSED" else []
    sign = "warn" if warned else {"FAILED": "bad", "INFO": ""}.get(word, "good")
    limit = None if certificate is None else _limit(certificate)
    block = {} if certificate is None else certificate["distribution"]
    divergence, agreement = (formatting.finite(block.get(key)) for key in ("kl_mean", "top1_agreement"))
    failed = [gate_words(gate) for gate in entry["failed_gates"]]
    held = f"all hold, with a warning: {formatting.listing(warned)}" if warned else "all hold"
    gates = formatting.listing(failed) if failed else held
    ratio = entry.get("ratio")
    keys = {"ratio": ratio, "kl": divergence, "top": agreement, "gates": len(failed)}
    return Row(
        entry["model"],
        entry["scenario"],
        str(entry["run"]),
        kind,
        word,
        sign,
        ratio=formatting.row_ratio(entry),
        interval=formatting.interval(entry["interval"]) if "interval" in entry else formatting.ABSENT,
        divergence=formatting.ABSENT if divergence is None else formatting.number(float(f"{divergence:.3g}")),
        agreement=formatting.ABSENT if agreement is None else f"{formatting.percent(agreement, 1.0)} %",
        gates=f"{NOT_CAUGHT}; {gates}" if is_uncaught(entry["strictness"], as_expected=entry["as_expected"]) else gates,
        keys={name: float(value) for name, value in keys.items() if value is not None},
        plot=forest_plot(axis, entry, limit, sign),
        url=url,
    )


def _limit(certificate: JsonObject) -> float:
    return float(certificate["resolved_policy"]["primary_metric"]["ratio_limit"])


def _heading(row: Mapping[str, Any]) -> str:
    return f"{_CATEGORIES[Category(row['category'])]}, {_ASKED[Strictness(row['strictness'])]}"
