"""A line for every certificate: as JSON, and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping

from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.results.exports.export import Choice, Export, chosen_rows
from pytest_proofpack.results.opened import Results

FORMAT = "proof-pack-rows-v1"
_FORMULA = re.compile(r'((?:\A|[,;])[ "]*)(?=[=+\-@\uff1d\uff0b\uff0d\uff20])')
"""Where a spreadsheet would take a text for a formula: at its beginning, and after what may separate cells.

In many countries that is a semicolon; tabs and line breaks are escaped. Some programs take full-width forms, too.
"""


def _row(row: JsonObject, certificate: JsonObject) -> JsonObject:
    metric, policy = certificate["primary_metric"], certificate["policy_provenance"]
    tail, distribution = certificate["primary_metric_tail"], certificate.get("distribution", {})
    low, high = row.get("interval") or (None, None)
    source = certificate["dataset"].get("source") or {}
    return {
        "model": row["model"],
        "revision": certificate["meta"]["revision"],
        "scenario": row["scenario"],
        "category": row["category"],
        "edit": certificate["edit_name"],
        "run": row["run"],
        "demand": row["strictness"],
        "passed": row["passed"],
        "as_expected": row["as_expected"],
        "ratio": row.get("ratio"),
        "ratio_low": low,
        "ratio_high": high,
        "limit": certificate["resolved_policy"]["primary_metric"]["ratio_limit"],
        "perplexity": metric.get("final"),
        "perplexity_baseline": certificate["baseline_ref"]["primary_metric"]["final"],
        "kl_mean": distribution.get("kl_mean"),
        "tail_q95": (tail.get("quantiles") or {}).get("q95"),
        "failed_gates": row["failed_gates"],
        "warnings": row["warnings"],
        "suite": certificate["meta"]["suite"],
        "tier": policy["tier"],
        "profile": certificate["meta"]["profile"],
        "policy_digest": policy["policy_digest"],
        "text": source.get("dataset") or certificate["dataset"]["provider"],
        "text_sha256": certificate["dataset"]["hash"]["text"],
        "device": certificate["meta"]["device"],
        "dtype": certificate["meta"]["dtype"],
        "certificate_digest": certificate["certificate_digest"],
    }


def _json(results: Results, choice: Choice) -> str:
    return pretty_json(
        {
            "format": FORMAT,
            **results.heading,
            "rows": [_row(*pair) for pair in chosen_rows(results, choice)],
        }
    )


def _csv(results: Results, choice: Choice) -> str:
    rows = [{**_row(*pair), "verified": results.verified} for pair in chosen_rows(results, choice)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return stream.getvalue()


def _cell(value: object) -> object:
    """Return a cell: numbers as they are, text without control characters and none that begins a formula."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or isinstance(value, int | float):
        return value
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    assert not isinstance(value, Mapping)
    return _FORMULA.sub(r"\1'", printable(text))


JSON = Export("json", "a record for every certificate, unrounded", _json)
CSV = Export("csv", "the same for spreadsheets; text that would be a formula there is quoted", _csv)
