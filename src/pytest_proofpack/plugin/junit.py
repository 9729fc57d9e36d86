"""What JUnit, and everybody else who reads pytest's reports, learns of certificates and verdict."""

from __future__ import annotations

import time

import pytest

from pytest_proofpack.certificate.explain import one_line
from pytest_proofpack.common.strict_json import JsonObject

ONE_LINE = "proofpack"
"""User property that holds ratio, interval and failing gates in one line."""
WINDOWS_PER_SECOND = "proofpack_windows_per_second"
"""User property that holds how many windows a second the edited model was measured on."""
DEVICE = "proofpack_device"
"""User property that holds the kind of device that it was measured on."""
REUSED = "proofpack_reused"
"""User property of an item whose certificate an earlier session has made."""

Properties = list[tuple[str, object]]


def certificate_properties(certificate: JsonObject) -> Properties:
    """Return the properties of an item by the certificate that it made."""
    metric = certificate["primary_metric"]
    properties: Properties = [(ONE_LINE, one_line(certificate))]
    if "ratio_vs_baseline" in metric:
        properties.append(("proofpack_ratio", metric["ratio_vs_baseline"]))
        properties.append(("proofpack_interval", "{} {}".format(*metric["display_ci"])))
    properties += [(f"proofpack_{flag}", value) for flag, value in sorted(certificate["validation"].items())]
    properties.append(("proofpack_certificate_digest", certificate["certificate_digest"]))
    properties.append((DEVICE, certificate["meta"]["device"]))
    speed = certificate["volatile"]["tokens_per_second"] / (certificate["dataset"]["seq_len"] - 1)
    properties.append((WINDOWS_PER_SECOND, round(speed, 2)))
    return properties


def add_suite_properties(config: pytest.Config, properties: Properties) -> None:
    """Add properties to the JUnit suite, if there is one; pytest has no public way outside of a fixture."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in properties:
            xml.add_global_property(name, value)


def fail_report(report: pytest.TestReport, why: str) -> None:
    """Make a report that of a failure: what its item made could not be kept, whatever it says itself."""
    report.outcome = "failed"
    report.longrepr = why
    report.__dict__.pop("wasxfail", None)  # whoever expects a gate to fail does not expect this
    report.user_properties = [(name, value) for name, value in report.user_properties if name != ONE_LINE]


def report_item(config: pytest.Config, nodeid: str, why: str | None, properties: Properties) -> None:
    """Send a result through pytest as one more item, so that failures and JUnit show it.

    Args:
        config: of the session.
        nodeid: of the item.
        why: why it failed; None if it passed.
        properties: of the item.
    """
    path, _, name = nodeid.partition("::")
    location = (path, None, name)
    config.hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
    now = time.time()
    for when in ("setup", "call", "teardown"):
        failed = when == "call" and why is not None
        config.hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                nodeid=nodeid,
                location=location,
                keywords={},
                outcome="failed" if failed else "passed",
                longrepr=why if failed else None,
                when=when,
                user_properties=properties,
                start=now,
                stop=now,
            )
        )
    config.hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
