"""The table of gates in docs/certificate.md is what the records say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_proofpack.certificate.criteria import METRIC_CRITERIA, criteria
from pytest_proofpack.guards.guard import RESERVED_FLAGS, flags_of

DOCS = Path(__file__).parents[2] / "docs" / "certificate.md"
_WAYS = {"max": "lower", "min": "higher"}


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| judges | block | gate | signal | may be stricter than the tier |"
    yield "|---|---|---|---|---|"
    for judge in criteria():
        gates = ", ".join(f"`{gate.flag}`" for gate in judge.gates)
        signal = f"{judge.signal.name} ({judge.signal.letter})" if judge.signal else "none"
        section = f"{judge.section}." if judge.section != judge.block else ""
        ways = ", ".join(f"`{section}{key}` {_WAYS[way]}" for key, way in judge.tightens.items())
        yield f"| {judge.judges} | `{judge.block}` | {gates} | {signal} | {ways or 'nothing'} |"


def test_the_table_in_the_documentation_is_that_of_the_records() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = text.partition("<!-- gates -->\n")[2].partition("\n<!-- /gates -->")[0]
    assert shown.split("\n") == list(table())


def test_the_flags_of_the_metric_are_reserved() -> None:
    assert set(RESERVED_FLAGS) == {flag for judge in METRIC_CRITERIA for flag in flags_of(judge)}
