"""What a pack needs of a certificate by itself, its check and its page, computed while others are still being made.

It is kept by the digest of the certificate's bytes: a file that is another one when it is packed is checked anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.verdict import certificate_key, verdict_row
from pytest_proofpack.common.strict_json import parse_json
from pytest_proofpack.pack.pages import page_of
from pytest_proofpack.plan.expected import Key
from pytest_proofpack.plan.records import Scenario


@dataclass(frozen=True)
class Preparation:
    """What was computed of one certificate.

    Attributes:
        findings: what is wrong with it; see :func:`check_certificate`.
        page: its page; None if none is wanted, or if something is wrong.
    """

    findings: list[str]
    page: str | None


class Ahead:
    """Prepares certificates one after the other, in a thread."""

    def __init__(self, expected: Mapping[Key, Scenario], *, html: bool) -> None:
        """Prepare nothing yet.

        Args:
            expected: what the run expects, by which pages tell how certificates stand.
            html: whether pages are wanted.
        """
        self._expected = expected
        self._html = html
        self._pool = ThreadPoolExecutor(1, "proofpack-ahead")
        self._begun: dict[str, tuple[bytes, Future[Preparation]]] = {}

    def begin(self, path: str, data: bytes) -> None:
        """Begin to prepare a certificate.

        Args:
            path: where it will be in the pack.
            data: the file.
        """
        self._begun[path] = hashlib.sha256(data).digest(), self._pool.submit(self._prepare, path, data)

    def results(self, files: Mapping[str, bytes]) -> dict[str, Preparation]:
        """Return what was prepared of just these files, by path, once it is; what failed is left out."""
        self._pool.shutdown()
        return {
            path: future.result()
            for path, (digest, future) in self._begun.items()
            if path in files and hashlib.sha256(files[path]).digest() == digest and future.exception() is None
        }

    def stop(self) -> None:
        """Prepare no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, path: str, data: bytes) -> Preparation:
        certificate = parse_json(data, path)  # its own copy: extensions are shown the one that was stored
        if findings := check_certificate(certificate):
            return Preparation(findings, None)
        if not self._html:
            return Preparation([], None)
        from pytest_proofpack import report  # jinja2 takes a while to import

        scenario = self._expected.get(certificate_key(certificate))
        row = None if scenario is None else verdict_row(certificate, scenario)
        return Preparation([], page_of(report, path, certificate, row))
