"""Columns of ours in the report of pytest-html, where that is installed and asked for."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import pytest

from pytest_proofpack.pack.layout import CERTIFICATES, REPORT_FILE
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plugin.junit import ONE_LINE, OUTCOME
from pytest_proofpack.runs.run import Run

_AT = 2
"""Our columns come behind pytest-html's ``Result`` and ``Test``."""


class HtmlColumns:
    """Registered in the controller beside pytest-html: what a certificate found, and where its page is."""

    def __init__(self, config: pytest.Config, run: Run, nodeids: dict[str, CertificateRequest]) -> None:
        """Write nothing yet.

        Args:
            config: of the session.
            run: the run.
            nodeids: the request of every item.
        """
        self._run = run
        self._requests = nodeids
        self._folder = (config.invocation_params.dir / config.getoption("htmlpath")).parent

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        """Name the columns."""
        cells[_AT:_AT] = ["<th>Proof pack</th>", "<th>Certificate</th>"]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: pytest.TestReport, cells: list[str]) -> None:
        """Fill them."""
        properties = dict(report.user_properties)
        line = escape(" ".join(str(properties[name]) for name in (OUTCOME, ONE_LINE) if name in properties))
        request = self._requests.get(report.nodeid)
        page = self._page(request) if ONE_LINE in properties and request is not None else None
        link = "" if page is None else f'<a href="{escape(Path(page).as_posix())}">page</a>'
        cells[_AT:_AT] = [f"<td>{line}</td>", f"<td>{link}</td>"]

    def _page(self, request: CertificateRequest) -> str | None:
        """Return where the certificate's page is going to be, from where the report is; None if there will be none."""
        run = self._run
        if run.pack_dir is None or run.settings.no_html or request.repeat:
            return None
        model, _, below = request.folder.partition("/certificates/")
        return os.path.relpath(run.pack_dir / CERTIFICATES / model / below / REPORT_FILE, self._folder)
