"""``evaluation.html``: one self-contained page for one certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.report import formatting
from pytest_proofpack.report.changes import changed_lines, changed_names
from pytest_proofpack.report.figures import interval_figure, loss_figure
from pytest_proofpack.report.gates import GateRow, gate_rows
from pytest_proofpack.report.layer_charts import Chart, layer_charts
from pytest_proofpack.report.own_limits import limits_words
from pytest_proofpack.report.rendering import is_short, render
from pytest_proofpack.report.sentence import headline
from pytest_proofpack.report.windows import worst

if TYPE_CHECKING:
    from pytest_proofpack.guards.guard import Guard


@dataclass(frozen=True)
class GuardView:
    """One guard, as the page tells of it.

    Attributes:
        name: as certificates call its block.
        title: what it looks at, in words.
        judges: what it judges, after "judges".
        gates: its rows of the gates; empty for a guard that gates nothing.
        reason: why it was not evaluated; None if it was.
        chart: what it measured, layer by layer; None if there is none.
    """

    name: str
    title: str
    judges: str
    gates: tuple[GateRow, ...]
    reason: str | None
    chart: Chart | None = None

    @property
    def sign(self) -> str:
        """The sign of its worst gate."""
        signs = {gate.sign for gate in self.gates}
        return next((sign for sign in ("bad", "warn", "good") if sign in signs), "")


@dataclass(frozen=True)
class Numbers:
    """Everything in a guard's block: plain facts, and tables by key."""

    name: str
    facts: Mapping[str, Any]
    tables: Mapping[str, Any]


def certificate_html(certificate: JsonObject, home: str | None = None, row: Mapping[str, Any] | None = None) -> str:
    """Return the page of a certificate that is valid against its schema: UTF-8 HTML, deterministic, no script.

    Args:
        certificate: its strings may be hostile, its guards' blocks may hold anything that JSON can.
        home: relative URL of the run's page; None if there is none to lead back to.
        row: what the verdict of its run says of it; None if it comes alone.
    """
    gates = gate_rows(certificate)
    return render(
        "certificate.html.j2",
        certificate=certificate,
        home=home,
        headline=headline(certificate, gates, row),
        own_limits=limits_words(certificate),
        gates=gates,
        lines=changed_lines(certificate),
        names=changed_names(certificate),
        interval_figure=interval_figure(certificate),
        loss_figure=loss_figure(certificate),
        guards=_guards(certificate, gates),
        windows=worst(certificate),
        numbers=_numbers(certificate),
    )


def _own_guards(certificate: JsonObject) -> dict[str, Guard]:
    """Return the package's own guards that certificates of this format have."""
    from pytest_proofpack.certificate.formats import format_of
    from pytest_proofpack.guards.registry import GUARDS

    known = format_of(certificate).guards
    return {name: guard for name, guard in GUARDS.builtin.items() if known is None or name in known}


def _guards(certificate: JsonObject, gates: Sequence[GateRow]) -> list[GuardView]:
    """Return the package's own guards, then those of extensions; what judges nothing stands under what changed."""
    charts, views = layer_charts(certificate), []
    for name, guard in _own_guards(certificate).items():
        if own := tuple(gate for gate in gates if gate.block == name):
            block = certificate[name]
            reason = None if block.get("evaluated", True) else formatting.scalar(block.get("reason"))
            views.append(GuardView(name, own[0].title, guard.judges, own, reason, charts.get(name)))
    for name in certificate.get("foreign_guards", {}):
        own = tuple(gate for gate in gates if gate.block == name)
        views.append(GuardView(name, name, "what an extension looks at", own, None))
    return views


def _numbers(certificate: JsonObject) -> list[Numbers]:
    """Return every guard's block as it is recorded; of guards of extensions what they derived, and by which policy."""
    own = {name: certificate[name] for name in _own_guards(certificate)}
    foreign = {
        name: {**block["derived"], "policy": block["policy"]}
        for name, block in certificate.get("foreign_guards", {}).items()
    }
    return [_split(name, block) for name, block in {**own, **foreign}.items()]


def _split(name: str, block: JsonObject) -> Numbers:
    facts = {key: value for key, value in block.items() if key != "evaluated"}
    tables = {key: value for key, value in facts.items() if _is_table(value)}
    return Numbers(name, {key: value for key, value in facts.items() if key not in tables}, tables)


def _is_table(value: object) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict | list) for item in value)
    return isinstance(value, dict) and not is_short(value)
