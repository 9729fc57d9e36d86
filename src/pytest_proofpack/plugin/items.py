"""The suite's items and fixtures, as controller (without xdist) and workers run them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_proofpack.plan.records import CertificateRequest, Strictness
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.plugin.junit import location_of
from pytest_proofpack.plugin.making import (
    MADE,
    REQUEST,
    TUNING_REQUEST,
    WORKBENCH,
    Unexpected,
    test_of,
)
from pytest_proofpack.plugin.markers import REPEAT, category_marker

if TYPE_CHECKING:
    from pytest_proofpack.engine.workbench import Workbench


class SuiteModule(pytest.Module):
    """The module of the suite's items. Its node id is that of the suite, wherever the package is installed."""


class SuiteItems:
    """Collects the suite, and runs its test once per certificate; see :mod:`pytest_proofpack.plugin.fixtures`."""

    def __init__(self, config: pytest.Config, bench: Workbench) -> None:
        self._run = bench.run
        config.stash[WORKBENCH] = bench
        config.add_cleanup(bench.close)

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give the suite's module its own node id."""
        if module_path.parent != suites_directory():
            return None
        return SuiteModule.from_parent(parent, path=module_path, nodeid=f"proofpack/{self._run.suite.name}")

    def pytest_pycollect_makeitem(self, collector: pytest.Collector, name: str) -> list[pytest.Item] | None:
        """Leave out those of the suite's tests that this run has no use for."""
        ours = isinstance(collector, SuiteModule) and name.startswith("test_")
        return [] if ours and name != test_of(self._run) else None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per certificate and repeat, or per edit to be tuned."""
        for fixture, asked in ((REQUEST, not self._run.tunes), (TUNING_REQUEST, self._run.tunes)):
            if fixture in metafunc.fixturenames:
                requests = self._run.items if asked else ()
                given = [pytest.param(request, id=request.id, marks=_marks(request)) for request in requests]
                metafunc.parametrize(fixture, given, indirect=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what the item made to the report of the call that made it."""
        report = yield
        if item.getparent(SuiteModule) is not None:
            report.location = location_of(item.config, report.nodeid)
        if call.when == "call" and (made := item.stash.get(MADE, None)) is not None:
            vars(report).update(made)
            del item.stash[MADE]
        return report


def _marks(request: CertificateRequest) -> list[pytest.MarkDecorator]:
    name = REPEAT if request.repeat else category_marker(request.scenario.category.value)
    marks = [getattr(pytest.mark, name)]
    if request.scenario.strictness is Strictness.INFORMATIONAL:
        marks.append(pytest.mark.xfail(raises=Unexpected, reason="informational: gates nothing", strict=False))
    return marks
