"""The pages for people: one per certificate and one for the run. They depend on nothing but what is in the pack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from pytest_proofpack.certificate.verdict import certificate_key, row_key
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack import layout as where
from pytest_proofpack.plan.expected import Key


class PageMaker(Protocol):
    """What makes the pages: :mod:`pytest_proofpack.report`."""

    def certificate_html(
        self, certificate: JsonObject, home: str | None = None, row: Mapping[str, Any] | None = None
    ) -> str:
        """Return the page of one certificate; ``home`` leads back to the run's, ``row`` is the verdict's of it."""

    def index_html(
        self,
        verdict: JsonObject,
        manifest_facts: JsonObject,
        links: Mapping[Key, str],
        certificates: Iterable[JsonObject] = (),
    ) -> str:
        """Return the page of the run; ``links`` leads from a certificate to its page."""


def page_of(maker: PageMaker, path: str, certificate: JsonObject, row: Mapping[str, Any] | None) -> str:
    """Return the page of a certificate that lies at a path in a pack, beside it; ``row`` is what the verdict says."""
    return maker.certificate_html(certificate, "../" * path.count("/") + where.INDEX, row)


def make_pages(
    maker: PageMaker,
    verdict: JsonObject,
    facts: JsonObject,
    certificates: Mapping[str, JsonObject],
    made: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Return the pages by their paths in a pack.

    Args:
        maker: makes them.
        verdict: the verdict over the certificates.
        facts: what the manifest says, without its list of files.
        certificates: by their paths in the pack.
        made: pages that have been made already, by the path of their certificate.
    """
    links = {certificate_key(own): where.beside(path, where.REPORT_FILE) for path, own in certificates.items()}
    rows = {row_key(row): row for row in verdict["certificates"]}
    pages = {
        where.beside(path, where.REPORT_FILE): made[path]
        if path in made
        else page_of(maker, path, own, rows.get(certificate_key(own)))
        for path, own in certificates.items()
    }
    return {**pages, where.INDEX: maker.index_html(verdict, facts, links, certificates.values())}
