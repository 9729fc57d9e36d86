"""Reports for people: a page per certificate, a page per run, a pack's README, and the verdict as text.

Everything in a certificate, a verdict or a manifest is treated as hostile: it is escaped wherever it lands, pages
carry no script and load nothing. The same input gives the same bytes. jinja2 is imported when a page is made.
"""

from pytest_proofpack.report.certificate_page import certificate_html
from pytest_proofpack.report.run_pages import index_html, judged_by, pack_readme
from pytest_proofpack.report.verdict_table import model_lines, reasons, verdict_table, verdict_text, warned

__all__ = [
    "certificate_html",
    "index_html",
    "judged_by",
    "model_lines",
    "pack_readme",
    "reasons",
    "verdict_table",
    "verdict_text",
    "warned",
]
