"""Items of ours that no test stands behind, as the terminal shows them."""

from __future__ import annotations

import pytest

CONFTEST = """
import pytest
from pytest_proofpack.plugin.junit import report_item

def pytest_report_teststatus(report, config):
    if report.when == "call" and report.nodeid.endswith("::verdict") and config.get_verbosity() <= 0:
        return "passed", "", ("PASSED", {})

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    report_item(session.config, "proofpack/own::verdict", None, [])
"""


@pytest.mark.parametrize(("verbose", "lines"), [((), []), (("-v",), ["proofpack/own::verdict PASSED"])])
def test_an_item_without_a_letter_leaves_no_line(
    pytester: pytest.Pytester, verbose: tuple[str, ...], lines: list[str]
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_own(): pass")
    result = pytester.runpytest(*verbose)
    result.assert_outcomes(passed=2)
    shown = [line for line in result.outlines if line.startswith("proofpack/")]
    assert [line.partition("  ")[0].rstrip() for line in shown] == lines
