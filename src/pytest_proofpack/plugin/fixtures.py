"""Fixtures of the items of a suite. ``pytest --fixtures`` shows them; only a session with a suite can use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.engine.baseline import Baseline
    from pytest_proofpack.engine.certify import Subject
    from pytest_proofpack.plan.records import CertificateRequest


@pytest.fixture
def proofpack_request(request: pytest.FixtureRequest) -> CertificateRequest:
    """The certificate that is asked for: model, scenario, number of the run. A test that takes it runs once for each.

    Only in a session with --proofpack-suite, or --proofpack-baseline and --proofpack-subject.
    """
    if not hasattr(request, "param"):
        pytest.fail(
            "proofpack_request and what depends on it are there only in a session with --proofpack-suite, or with "
            "--proofpack-baseline and --proofpack-subject.",
            pytrace=False,
        )
    asked: CertificateRequest = request.param
    return asked


@pytest.fixture
def _proofpack_source(request: pytest.FixtureRequest, proofpack_request: CertificateRequest) -> Any:
    """Return the way to the item's certificate: made now, or reused."""
    from pytest_proofpack.plugin.making import certificate_source

    return certificate_source(request.config, proofpack_request)


@pytest.fixture
def proofpack_baseline(_proofpack_source: Any) -> Baseline | None:
    """The loaded, unedited model (``.model``) with everything that was measured on it. None for a reused certificate.

    It is loaded once per worker; whoever changes its weights has to put them back.
    """
    from pytest_proofpack.plugin.making import readable_errors

    with readable_errors():
        baseline: Baseline | None = _proofpack_source.baseline()
    return baseline


@pytest.fixture
def proofpack_edited(_proofpack_source: Any, proofpack_baseline: Baseline | None) -> Iterator[Subject | None]:
    """The edited model (``.model``), ready to be measured. None for a reused certificate.

    It is the baseline with the edit or fault in it, put back bit for bit afterwards, or a checkpoint of its own.
    """
    from pytest_proofpack.plugin.making import readable_errors

    with readable_errors(), _proofpack_source.edited(proofpack_baseline) as subject:
        yield subject


@pytest.fixture
def proofpack_certify(
    _proofpack_source: Any, proofpack_request: CertificateRequest, request: pytest.FixtureRequest
) -> Callable[[Baseline | None, Subject | None], JsonObject]:
    """A function of baseline and edited model that measures them and returns the certificate, for the run to store.

    The suite's own items call it, once each.
    """
    from pytest_proofpack.plugin.junit import certificate_properties
    from pytest_proofpack.plugin.making import readable_errors

    def certify(_baseline: Baseline | None, subject: Subject | None) -> JsonObject:
        with readable_errors():
            certificate: JsonObject = _proofpack_source.certificate(subject, request.node)
        request.node.user_properties.extend(certificate_properties(certificate, proofpack_request.scenario))
        return certificate

    return certify


@pytest.fixture
def proofpack_tuning(request: pytest.FixtureRequest) -> CertificateRequest:
    """The clean edit that is to be tuned: model, scenario, type and scope. A test that takes it runs once for each.

    Only in a session with --proofpack-mode=tune.
    """
    if not hasattr(request, "param"):
        pytest.fail("proofpack_tuning is there only in a session with --proofpack-mode=tune.", pytrace=False)
    asked: CertificateRequest = request.param
    return asked


@pytest.fixture
def proofpack_tune(proofpack_tuning: CertificateRequest, request: pytest.FixtureRequest) -> Callable[[], JsonObject]:
    """A function that finds the strongest parameters of the edit that the model bears, for the session to store.

    The suite's own items call it, once each.
    """
    from pytest_proofpack.plugin.making import readable_errors
    from pytest_proofpack.plugin.tuning import tune_item

    def tune() -> JsonObject:
        with readable_errors():
            return tune_item(request.node, proofpack_tuning)

    return tune
