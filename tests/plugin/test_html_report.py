"""Our columns in the report of pytest-html."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_proofpack.plugin.html_report import HtmlColumns
from pytest_proofpack.plugin.junit import ONE_LINE, OUTCOME
from pytest_proofpack.runs.run import resolve_run
from tests.support.default_settings import DEFAULTS


@pytest.mark.parametrize(
    ("options", "link"),
    [
        ({}, '<a href="../run/proof_pack/certs/proofpack__tiny/quant_4bit_clean/run_1/evaluation.html">page</a>'),
        ({"no_pack": True}, ""),
        ({"no_html": True}, ""),
    ],
)
def test_a_row_has_what_was_found_and_links_the_page(tmp_path: Path, options: dict[str, bool], link: str) -> None:
    settings = replace(DEFAULTS, suite="tiny", out=str(tmp_path / "run"), **options)  # type: ignore[arg-type]
    run = resolve_run(settings)
    request = next(request for request in run.items if request.scenario.id == "quant_4bit_clean")
    config = SimpleNamespace(
        invocation_params=SimpleNamespace(dir=tmp_path), getoption=lambda _name: "reports/report.html"
    )
    columns = HtmlColumns(cast("pytest.Config", config), run, {"id": request})

    head, cells = ["Result", "Test", "Duration"], ["Passed", "id", "1"]
    columns.pytest_html_results_table_header(head)
    report = pytest.TestReport("id", ("id", None, "id"), {}, "passed", None, "call")
    report.user_properties = [(ONE_LINE, "ratio 1.02 <b>"), (OUTCOME, "PASSED")]
    columns.pytest_html_results_table_row(report, cells)

    assert head == ["Result", "Test", "<th>Proof pack</th>", "<th>Certificate</th>", "Duration"]
    assert cells == ["Passed", "id", "<td>PASSED ratio 1.02 &lt;b&gt;</td>", f"<td>{link}</td>", "1"]


def test_a_row_of_another_test_stays_empty(tmp_path: Path) -> None:
    run = resolve_run(replace(DEFAULTS, suite="tiny", out=str(tmp_path / "run")))
    config = SimpleNamespace(invocation_params=SimpleNamespace(dir=tmp_path), getoption=lambda _name: "report.html")
    cells = ["Passed", "mine", "1"]
    report = pytest.TestReport("mine", ("mine", None, "mine"), {}, "passed", None, "call")
    HtmlColumns(cast("pytest.Config", config), run, {}).pytest_html_results_table_row(report, cells)
    assert cells == ["Passed", "mine", "<td></td>", "<td></td>", "1"]
