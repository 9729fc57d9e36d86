"""What JUnit, and everybody else who reads pytest's reports, learns of certificates and verdict."""

from __future__ import annotations

import time
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.explain import NOT_CAUGHT, is_uncaught, one_line, outcome_word
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable, printable_lines
from pytest_proofpack.plan.records import Scenario

ONE_LINE = "proofpack"
"""User property that holds ratio, interval and failing gates in one line."""
OUTCOME = "proofpack_outcome"
"""User property that holds what people read of it: ``PASSED``, ``CAUGHT``, ``FAILED`` or ``INFO``."""
WINDOWS_PER_SECOND = "proofpack_windows_per_second"
"""User property that holds how many windows a second the edited model was measured on."""
DEVICE = "proofpack_device"
"""User property that holds the kind of device that it was measured on."""
ANNOTATED = pytest.StashKey[tuple[str, str]]()
"""Of the session's config: what node ids of the suite begin with, and the file that their annotations point to."""
NOT_APPLICABLE = "not applicable"
REUSED = "proofpack_reused"
"""User property of an item whose certificate an earlier session has made."""

Properties = list[tuple[str, object]]


def certificate_properties(certificate: JsonObject, scenario: Scenario) -> Properties:
    """Return the properties of an item by the certificate that it made: everything that a dashboard may want.

    Gates that a certificate was not judged by are there too, as ``not applicable``.
    """
    metric, validation = certificate["primary_metric"], certificate["validation"]
    limit = certificate["resolved_policy"]["primary_metric"]["ratio_limit"]
    as_expected = assess(certificate, scenario).as_expected
    uncaught = f"{NOT_CAUGHT}; " if is_uncaught(scenario.strictness, as_expected=as_expected) else ""
    properties: Properties = [
        (ONE_LINE, uncaught + one_line(certificate)),
        (OUTCOME, outcome_word(scenario.strictness, as_expected=as_expected)),
        ("proofpack_scenario_kind", scenario.category.value),
        ("proofpack_demand", scenario.strictness.value),
        ("proofpack_tier", certificate["policy_provenance"]["tier"]),
        ("proofpack_ratio_limit", limit),
    ]
    if "ratio_vs_baseline" in metric:
        properties.append(("proofpack_ratio", metric["ratio_vs_baseline"]))
        properties.append(("proofpack_interval", "{} {}".format(*metric["display_ci"])))
        properties.append(("proofpack_perplexity", metric["final"]))
    properties.append(("proofpack_perplexity_baseline", certificate["baseline_ref"]["primary_metric"]["final"]))
    if certificate["distribution"].get("kl_mean") is not None:
        properties.append(("proofpack_kl_mean", certificate["distribution"]["kl_mean"]))
    gates = {gate.flag for judge in criteria() for gate in judge.gates}
    properties += [
        (f"proofpack_{flag}", validation.get(flag, NOT_APPLICABLE)) for flag in sorted({*gates, *validation})
    ]
    properties.append(("proofpack_certificate_digest", certificate["certificate_digest"]))
    properties.append((DEVICE, certificate["meta"]["device"]))
    speed = certificate["volatile"]["tokens_per_second"] / (certificate["dataset"]["seq_len"] - 1)
    properties.append((WINDOWS_PER_SECOND, round(speed, 2)))
    return properties


def add_system_out(config: pytest.Config, report: pytest.TestReport) -> None:
    """Show an item's one line as what it wrote: some that read JUnit show nothing else of a case that passed.

    To be called once pytest has noted the report of the item's call. Where JUnit has what items write anyway, the line
    joins that.
    """
    line = dict(report.user_properties).get(ONE_LINE)
    xml = _junit(config)
    if line is None or xml is None or report.when != "call":
        return
    word = dict(report.user_properties).get(OUTCOME)
    element = ElementTree.Element("system-out")
    element.text = printable(f"{word} {line}" if word else str(line))
    xml.node_reporter(report).append(element)


def add_suite_properties(config: pytest.Config, properties: Properties) -> None:
    """Add properties to the JUnit suite, if there is one; pytest has no public way outside of a fixture."""
    xml = _junit(config)
    if xml is not None:
        for name, value in properties:
            xml.add_global_property(name, value)


def _junit(config: pytest.Config) -> Any:
    from _pytest.junitxml import xml_key

    return config.stash.get(xml_key, None)


def fail_report(report: pytest.TestReport, why: str) -> None:
    """Make a report that of a failure: what its item made could not be kept, whatever it says itself."""
    report.outcome = "failed"
    report.longrepr = printable_lines(why.split("\n"))
    report.__dict__.pop("wasxfail", None)  # whoever expects a gate to fail does not expect this
    report.user_properties = [
        (name, value) for name, value in report.user_properties if name not in (ONE_LINE, OUTCOME)
    ]


def location_of(config: pytest.Config, nodeid: str) -> tuple[str, None, str]:
    """Return where an item of the suite is, for those that annotate files: a file that exists, and the item's name."""
    path, _, name = nodeid.partition("::")
    prefix, file = config.stash.get(ANNOTATED, (path, path))
    return file if path == prefix else path, None, name


def report_item(config: pytest.Config, nodeid: str, why: str | None, properties: Properties) -> None:
    """Send a result through pytest as one more item, so that failures and JUnit show it.

    Args:
        config: of the session.
        nodeid: of the item.
        why: why it failed; None if it passed.
        properties: of the item.
    """
    location = location_of(config, nodeid)
    # The terminal names an item's file before its letter, and this one has none.
    silent = [config.pluginmanager.get_plugin("terminalreporter")] if config.get_verbosity() <= 0 else []
    start = config.pluginmanager.subset_hook_caller("pytest_runtest_logstart", [one for one in silent if one])
    start(nodeid=nodeid, location=location)
    now = time.time()
    for when in ("setup", "call", "teardown"):
        failed = when == "call" and why is not None
        config.hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=nodeid,
                location=location,
                keywords={},
                outcome="failed" if failed else "passed",
                longrepr=printable_lines(why.split("\n")) if failed and why is not None else None,
                when=when,
                user_properties=properties,
                start=now,
                stop=now,
            )
        )
    config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
