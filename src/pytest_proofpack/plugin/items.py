"""The suite's items and fixtures, as controller (without xdist) and workers run them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.certificate.explain import one_line
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.plan.records import CertificateRequest, Strictness
from pytest_proofpack.plan.suites import suites_directory

if TYPE_CHECKING:
    from pytest_proofpack.engine.baseline import Baseline
    from pytest_proofpack.engine.certify import Subject
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.runs.run import Run

REPORT_ATTRIBUTE = "proofpack_certificate"
"""Attribute of a call report that carries the certificate to the controller, as one canonical JSON text."""
REPEAT_ATTRIBUTE = "proofpack_repeat"
"""Attribute of such a report that says which repeat the certificate is; 0 where it is none."""
ONE_LINE = "proofpack"
"""User property that holds ratio, interval and failing gates in one line."""
WINDOWS_PER_SECOND = "proofpack_windows_per_second"
"""User property that holds how many windows a second the edited model was measured on."""
DEVICE = "proofpack_device"
"""User property that holds the kind of device that it was measured on."""
REUSED = "proofpack_reused"
"""User property of an item whose certificate an earlier session has made."""
_MADE = pytest.StashKey[tuple[str, int]]()
"""The certificate that an item made, and which repeat it is; 0 for none."""
_REPEAT_MARKER = "proofpack_repeat"
_CATEGORIES = {
    "calibration": "the unedited model against itself",
    "clean": "an edit that must pass every gate",
    "stress": "an edit that must be caught, or is informational",
    "error_injection": "an injected error that must be detected",
    "byoe": "a checkpoint edited elsewhere that must pass every gate",
}


def register_markers(config: pytest.Config) -> None:
    """Register one marker per category, and one for repeats, for ``-m``."""
    for category, meaning in _CATEGORIES.items():
        config.addinivalue_line("markers", f"proofpack_{category}: {meaning}")
    config.addinivalue_line("markers", f"{_REPEAT_MARKER}: a certificate made again, to see how reproducible it is")


class SuiteModule(pytest.Module):
    """The module of the suite's items. Its node id is that of the suite, wherever the package is installed."""


class _Making:
    """The way to a certificate that is made now: load the model, edit it, measure it."""

    def __init__(self, bench: Workbench, request: CertificateRequest) -> None:
        self._bench = bench
        self._request = request

    def baseline(self) -> Baseline:
        """Return the loaded, unedited model."""
        return self._bench.baseline(self._request)

    def edited(self, baseline: Baseline) -> contextlib.AbstractContextManager[Subject]:
        """Return a context with the edited model: the baseline until the context ends, or a checkpoint of its own."""
        from pytest_proofpack.engine.certify import edited_subject, loaded_subject

        run, request = self._bench.run, self._request
        if request.subject is None:
            return edited_subject(run, baseline, request)
        checkpoint = self._bench.checkpoint(request, baseline)
        return contextlib.nullcontext(loaded_subject(run, baseline, request, checkpoint))

    def certificate(self, subject: Subject, item: pytest.Item) -> JsonObject:
        """Measure the edited model and leave the certificate for the item's report."""
        from pytest_proofpack.engine.certify import certify

        certificate = certify(self._bench.run, subject)
        item.stash[_MADE] = compact_json(certificate), self._request.repeat
        return certificate


class _Reusing:
    """The way to a certificate that the run directory holds and the controller has checked: nothing is loaded."""

    def __init__(self, certificate: JsonObject) -> None:
        self._certificate = certificate

    def baseline(self) -> None:
        """Return nothing."""

    def edited(self, _baseline: None) -> contextlib.AbstractContextManager[None]:
        """Return a context with nothing."""
        return contextlib.nullcontext()

    def certificate(self, _subject: None, item: pytest.Item) -> JsonObject:
        """Return what there is of the certificate; the report carries none."""
        item.user_properties.append((REUSED, True))
        return self._certificate


class SuiteItems:
    """Collects the suite, parametrizes its test, and gives it its fixtures."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    @property
    def _run(self) -> Run:
        """The run; without workers, the controller fills in commits and directories before items are collected."""
        return self._bench.run

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give the suite's module its own node id."""
        if module_path.parent != suites_directory():
            return None
        return SuiteModule.from_parent(parent, path=module_path, nodeid=f"proofpack/{self._run.suite.name}")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per certificate and repeat."""
        if "certificate_request" not in metafunc.fixturenames:
            return
        requests = [pytest.param(request, id=request.id, marks=_marks(request)) for request in self._run.items]
        metafunc.parametrize("certificate_request", requests)

    @pytest.fixture
    def certificate_source(self, certificate_request: CertificateRequest) -> Any:
        """Return the way to the item's certificate: made now, or reused."""
        stored = self._bench.reused.get(certificate_request.id)
        return _Making(self._bench, certificate_request) if stored is None else _Reusing(stored)

    @pytest.fixture
    def baseline(self, certificate_source: Any) -> Baseline | None:
        """Return the loaded, unedited model with everything that was measured on it; None for a reused certificate."""
        with readable_errors():
            baseline: Baseline | None = certificate_source.baseline()
        return baseline

    @pytest.fixture
    def edited(self, certificate_source: Any, baseline: Baseline | None) -> Iterator[Subject | None]:
        """Return the edited model: the baseline, restored bit for bit afterwards, or a checkpoint of its own."""
        with readable_errors(), certificate_source.edited(baseline) as subject:
            yield subject

    @pytest.fixture
    def certify(
        self, certificate_source: Any, request: pytest.FixtureRequest
    ) -> Callable[[Baseline | None, Subject | None], JsonObject]:
        """Return the function that measures the edited model and makes the certificate."""

        def certify_subject(_baseline: Baseline | None, subject: Subject | None) -> JsonObject:
            with readable_errors():
                certificate: JsonObject = certificate_source.certificate(subject, request.node)
            request.node.user_properties.extend(_properties(certificate))
            return certificate

        return certify_subject

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
        """Attach the certificate to the report of the call that made it."""
        report = yield
        if call.when == "call" and (made := item.stash.get(_MADE, None)) is not None:
            text, repeat = made
            setattr(report, REPORT_ATTRIBUTE, text)
            setattr(report, REPEAT_ATTRIBUTE, repeat)
            del item.stash[_MADE]
        return report


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Show our own errors as their message alone, without the traceback that led to them."""
    try:
        yield
    except ProofPackError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def _marks(request: CertificateRequest) -> list[pytest.MarkDecorator]:
    name = _REPEAT_MARKER if request.repeat else f"proofpack_{request.scenario.category.value}"
    marks = [getattr(pytest.mark, name)]
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
    properties.append((DEVICE, certificate["meta"]["device"]))
    speed = certificate["volatile"]["tokens_per_second"] / (certificate["dataset"]["seq_len"] - 1)
    properties.append((WINDOWS_PER_SECOND, round(speed, 2)))
    return properties
