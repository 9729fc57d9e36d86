"""The items of a suite: each one is a certificate of one edit of one model, or finds parameters of one.

The fixtures come from the plugin: it plans the certificates, loads each model once per worker, edits it in place and
puts it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_proofpack.certificate.explain import unexpected
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plugin.making import Unexpected

if TYPE_CHECKING:
    from pytest_proofpack.engine.baseline import Baseline
    from pytest_proofpack.engine.certify import Subject


def test_certificate(
    proofpack_request: CertificateRequest,
    proofpack_baseline: Baseline,
    proofpack_edited: Subject,
    proofpack_certify: Callable[[Baseline, Subject], dict[str, Any]],
) -> None:
    """An edit does to the model what its scenario says: clean ones pass, destructive ones and faults are caught."""
    certificate = proofpack_certify(proofpack_baseline, proofpack_edited)
    finding = unexpected(certificate, proofpack_request.scenario)
    if finding is not None:
        raise Unexpected(finding, pytrace=False)


def test_tuning(proofpack_tune: Callable[[], dict[str, Any]]) -> None:
    """A model bears some strength of an edit (--proofpack-mode=tune). None at all is a result too."""
    proofpack_tune()
