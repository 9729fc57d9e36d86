"""The suite's items and fixtures, as controller (without xdist) and workers run them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.explain import one_line
from pytest_proofpack.jsonio import JsonObject, canonical_json
from pytest_proofpack.records import CertificateRequest, ModelSpec, Strictness
from pytest_proofpack.run_directory import MARKER
from pytest_proofpack.suites import suites_directory

if TYPE_CHECKING:
    from pytest_proofpack.baseline import Baseline, Prepared
    from pytest_proofpack.certify import Subject
    from pytest_proofpack.memory_plan import MemoryPlan
    from pytest_proofpack.run import Run
    from pytest_proofpack.slots import Holding, Placement, ProcessDevices
    from pytest_proofpack.subjects import Checkpoint, PreparedSubject

REPORT_ATTRIBUTE = "proofpack_certificate"
"""Attribute of a call report that carries the certificate to the controller, as one canonical JSON text."""
ONE_LINE = "proofpack"
"""User property that holds ratio, interval and failing gates in one line."""
WINDOWS_PER_SECOND = "proofpack_windows_per_second"
"""User property that holds how many windows a second the edited model was measured on."""
DEVICE = "proofpack_device"
"""User property that holds the kind of device that it was measured on."""
_CERTIFICATE = pytest.StashKey[str]()
_CATEGORIES = {
    "calibration": "the unedited model against itself",
    "clean": "an edit that must pass every gate",
    "stress": "an edit that must be caught, or is informational",
    "error_injection": "an injected error that must be detected",
    "byoe": "a checkpoint edited elsewhere that must pass every gate",
}


def register_markers(config: pytest.Config) -> None:
    """Register one marker per category, for ``-m``."""
    for category, meaning in _CATEGORIES.items():
        config.addinivalue_line("markers", f"proofpack_{category}: {meaning}")


class SuiteModule(pytest.Module):
    """The module of the suite's items. Its node id is that of the suite, wherever the package is installed."""


class Workbench:
    """Keeps one baseline loaded, the one that the current item needs, one checkpoint, and the checked inputs of all."""

    def __init__(self, run: Run, devices: ProcessDevices | None = None) -> None:
        self.run = run
        self.plans: dict[str, MemoryPlan] = {}
        self._devices = devices
        self._holding: Holding | None = None
        self._prepared: dict[str, Prepared] = {}
        self._baseline: Baseline | None = None
        self._prepared_subjects: dict[str, PreparedSubject] = {}
        self._checkpoint: tuple[str, Checkpoint] | None = None
        self.borrowed: tuple[str, ...] = ()

    def prepare(self, model: ModelSpec) -> Prepared:
        """Return the checked inputs of a model: directory, tokenizer, text. Its memory is planned too.

        Raises:
            ConfigurationError: something about them cannot be used, or the model fits no device.
        """
        from pytest_proofpack.baseline import prepare_model
        from pytest_proofpack.model_shapes import plan_model

        if model.id not in self._prepared:
            prepared = prepare_model(self._located_run(), self._located(model))
            if self._devices is not None:
                self.plans[model.id] = plan_model(prepared.spec, prepared.plan, self._devices.devices)
            self._prepared[model.id] = prepared
        return self._prepared[model.id]

    def baseline(self, request: CertificateRequest) -> Baseline:
        """Return the loaded baseline of a request's model, dropping the one before.

        Its weights may have been given up to make room for a subject's; they are loaded again if the request needs
        them.
        """
        from pytest_proofpack.baseline import load_baseline

        held = self._baseline
        if held is not None and held.spec.id == request.model.id and (request.subject or not held.released):
            return held
        del held
        self.release()  # memory and devices, before the next model takes its own
        prepared = self.prepare(request.model)
        try:
            self._baseline = load_baseline(self.run, prepared, self._place(prepared))
        except BaseException:
            self.release()
            raise
        return self._baseline

    def prepare_subject(self, request: CertificateRequest) -> PreparedSubject:
        """Return the checked inputs of a request's edited checkpoint.

        Raises:
            ConfigurationError: something about them cannot be used.
        """
        from pytest_proofpack.subjects import prepare_subject

        scenario, spec = request.scenario.id, request.subject
        assert spec is not None
        if scenario not in self._prepared_subjects:
            self._prepared_subjects[scenario] = prepare_subject(self._located(spec), self.prepare(request.model))
        return self._prepared_subjects[scenario]

    def checkpoint(self, request: CertificateRequest, baseline: Baseline) -> Checkpoint:
        """Return the loaded checkpoint of a request, dropping the one before."""
        from pytest_proofpack.subjects import load_checkpoint

        scenario = request.scenario.id
        if self._checkpoint is None or self._checkpoint[0] != scenario:
            self._checkpoint = None
            self._checkpoint = scenario, load_checkpoint(self.run, baseline, self.prepare_subject(request))
        return self._checkpoint[1]

    def release(self) -> None:
        """Drop what is loaded and let other processes have its memory and devices; the checked inputs stay."""
        import torch

        self._baseline = self._checkpoint = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._holding is not None:
            self._holding.release()
            self._holding = None

    def borrow(self, devices: tuple[str, ...]) -> None:
        """Take note that what is loaded next may use these devices besides this worker's own."""
        self.borrowed = devices

    def _place(self, prepared: Prepared) -> Placement | None:
        """Lease the devices that a model needs, waiting for them, and say where it goes."""
        if self._devices is None:
            return None
        self._holding = self._devices.hold(self.plans[prepared.spec.id], self.borrowed)
        return self._holding.placement

    def _located(self, model: ModelSpec) -> ModelSpec:
        """Return a model with its directory on this machine: the controller knows it, a worker looks for its own."""
        from pytest_proofpack.preflight import located_model

        return located_model(model, verify=not self._beside_the_controller())

    def _located_run(self) -> Run:
        """Return the run with the text's directory on this machine."""
        from pytest_proofpack.preflight import located_text

        text = located_text(self.run.suite.text, verify=not self._beside_the_controller())
        self.run = replace(self.run, suite=replace(self.run.suite, text=text))
        return self.run

    def _beside_the_controller(self) -> bool:
        """Tell whether this worker's cache is the controller's, whose files have been compared with their commits."""
        return (self.run.out / MARKER).is_file()


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
        """Make one item per certificate."""
        if "certificate_request" not in metafunc.fixturenames:
            return
        requests = [pytest.param(request, id=request.id, marks=_marks(request)) for request in self._run.requests]
        metafunc.parametrize("certificate_request", requests)

    @pytest.fixture
    def baseline(self, certificate_request: CertificateRequest) -> Baseline:
        """Return the loaded, unedited model with everything that was measured on it."""
        with readable_errors():
            return self._bench.baseline(certificate_request)

    @pytest.fixture
    def edited(self, certificate_request: CertificateRequest, baseline: Baseline) -> Iterator[Subject]:
        """Return the edited model: the baseline, restored bit for bit afterwards, or a checkpoint of its own."""
        from pytest_proofpack.certify import edited_subject, loaded_subject

        if certificate_request.subject is not None:
            with readable_errors():
                checkpoint = self._bench.checkpoint(certificate_request, baseline)
                subject = loaded_subject(self._run, baseline, certificate_request, checkpoint)
            yield subject
            return
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
        raise pytest.fail.Exception(str(error), pytrace=False) from None


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
    properties.append((DEVICE, certificate["meta"]["device"]))
    speed = certificate["volatile"]["tokens_per_second"] / (certificate["dataset"]["seq_len"] - 1)
    properties.append((WINDOWS_PER_SECOND, round(speed, 2)))
    return properties
