"""The suite's items and fixtures, as controller (without xdist) and workers run them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.explain import one_line
from pytest_proofpack.jsonio import JsonObject, canonical_json
from pytest_proofpack.records import CertificateRequest, ModelSpec, Strictness
from pytest_proofpack.suites import suites_directory

if TYPE_CHECKING:
    from pytest_proofpack.baseline import Baseline, Prepared
    from pytest_proofpack.certify import Subject
    from pytest_proofpack.run import Run

REPORT_ATTRIBUTE = "proofpack_certificate"
"""Attribute of a call report that carries the certificate to the controller, as one canonical JSON text."""
ONE_LINE = "proofpack"
"""User property that holds ratio, interval and failing gates in one line."""
_CERTIFICATE = pytest.StashKey[str]()
_CATEGORIES = {
    "calibration": "the unedited model against itself",
    "clean": "an edit that must pass every gate",
    "stress": "an edit that must be caught, or is informational",
    "error_injection": "an injected error that must be detected",
}


def register_markers(config: pytest.Config) -> None:
    """Register one marker per category, for ``-m``."""
    for category, meaning in _CATEGORIES.items():
        config.addinivalue_line("markers", f"proofpack_{category}: {meaning}")


class SuiteModule(pytest.Module):
    """The module of the suite's items. Its node id is that of the suite, wherever the package is installed."""


class Workbench:
    """Keeps one model loaded, the one that the current item needs, and the checked inputs of all of them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._prepared: dict[str, Prepared] = {}
        self._baseline: Baseline | None = None

    def prepare(self, model: ModelSpec) -> Prepared:
        """Return the checked inputs of a model: directory, tokenizer, text.

        Raises:
            ConfigurationError: something about them cannot be used.
        """
        from pytest_proofpack.baseline import prepare_model

        if model.id not in self._prepared:
            self._prepared[model.id] = prepare_model(self._run, model)
        return self._prepared[model.id]

    def baseline(self, model: ModelSpec) -> Baseline:
        """Return the loaded baseline of a model, dropping the one before."""
        from pytest_proofpack.baseline import load_baseline

        if self._baseline is None or self._baseline.spec.id != model.id:
            self._baseline = None  # frees the memory before the next model is loaded
            self._baseline = load_baseline(self._run, self.prepare(model))
        return self._baseline


class SuiteItems:
    """Collects the suite, parametrizes its test, and gives it its fixtures."""

    def __init__(self, run: Run, bench: Workbench) -> None:
        self._run = run
        self._bench = bench

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give the suite's module its own node id."""
        if module_path.parent != suites_directory():
            return None
        return SuiteModule.from_parent(parent, path=module_path, nodeid=f"proofpack/{self._run.suite.name}")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per certificate."""
        if "certificate_request" not in metafunc.fixturenames:
            return
        requests = [pytest.param(request, id=request.id, marks=_marks(request)) for request in self._run.requests]
        metafunc.parametrize("certificate_request", requests)

    @pytest.fixture
    def baseline(self, certificate_request: CertificateRequest) -> Baseline:
        """Return the loaded, unedited model with everything that was measured on it."""
        with readable_errors():
            return self._bench.baseline(certificate_request.model)

    @pytest.fixture
    def edited(self, certificate_request: CertificateRequest, baseline: Baseline) -> Iterator[Subject]:
        """Return the edited model; it is restored bit for bit afterwards."""
        from pytest_proofpack.certify import edited_subject

        with contextlib.ExitStack() as stack:
            with readable_errors():
                subject = stack.enter_context(edited_subject(self._run, baseline, certificate_request))
            yield subject

    @pytest.fixture
    def certify(self, request: pytest.FixtureRequest) -> Callable[[Baseline, Subject], JsonObject]:
        """Return the function that measures the edited model and makes the certificate."""
        from pytest_proofpack.certify import certify

        def certify_subject(_baseline: Baseline, subject: Subject) -> JsonObject:
            with readable_errors():
                certificate = certify(self._run, subject)
            request.node.stash[_CERTIFICATE] = canonical_json(certificate)
            request.node.user_properties.extend(_properties(certificate))
            return certificate

        return certify_subject

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        """Attach the certificate to the report of the call that made it."""
        report = yield
        if call.when == "call" and (text := item.stash.get(_CERTIFICATE, None)) is not None:
            setattr(report, REPORT_ATTRIBUTE, text)
            del item.stash[_CERTIFICATE]
        return report


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Show our own errors as their message alone, without the traceback that led to them."""
    try:
        yield
    except ProofPackError as error:
        pytest.fail(str(error), pytrace=False)


def _marks(request: CertificateRequest) -> list[pytest.MarkDecorator]:
    marks = [getattr(pytest.mark, f"proofpack_{request.scenario.category.value}")]
    if request.scenario.strictness is Strictness.INFORMATIONAL:
        marks.append(pytest.mark.xfail(reason="informational: gates nothing", strict=False))
    return marks


def _properties(certificate: JsonObject) -> list[tuple[str, object]]:
    metric = certificate["primary_metric"]
    properties: list[tuple[str, object]] = [(ONE_LINE, one_line(certificate))]
    if "ratio_vs_baseline" in metric:
        properties.append(("proofpack_ratio", metric["ratio_vs_baseline"]))
        properties.append(("proofpack_interval", "{} {}".format(*metric["display_ci"])))
    properties += [(f"proofpack_{flag}", value) for flag, value in sorted(certificate["validation"].items())]
    properties.append(("proofpack_certificate_digest", certificate["certificate_digest"]))
    return properties
