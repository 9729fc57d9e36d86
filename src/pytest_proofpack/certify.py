"""One scenario -> one certificate. The only place that sees baseline and edited model together."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

from pytest_proofpack.baseline import Baseline, baseline_draw, measure_draw
from pytest_proofpack.certificate import Evidence, ModelFacts, build_certificate
from pytest_proofpack.edits import EditReport, edited, injected
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.jsonio import JsonObject
from pytest_proofpack.measures.structure import measure_structure
from pytest_proofpack.models import weights_digest
from pytest_proofpack.records import CertificateRequest, Draw
from pytest_proofpack.run import Run
from pytest_proofpack.text import DrawnWindows

_LIBRARIES = ("numpy", "safetensors", "scipy", "torch", "transformers")


@dataclass
class Stopwatch:
    """Wall time of the phases of one certificate, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the body to the phase ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Subject:
    """An edited model, ready to be measured.

    Attributes:
        baseline: what was edited; its ``model`` is the edited model until the context ends.
        request: the certificate to be made.
        report: what the edit says about itself.
        windows: the token windows to measure on.
        baseline_losses: losses of the unedited model on them.
        stopwatch: times so far.
    """

    baseline: Baseline
    request: CertificateRequest
    report: EditReport
    windows: DrawnWindows
    baseline_losses: Draw
    stopwatch: Stopwatch


@contextlib.contextmanager
def edited_subject(run: Run, baseline: Baseline, request: CertificateRequest) -> Iterator[Subject]:
    """Measure the baseline, apply the request's edit or fault in place, and put everything back afterwards.

    Raises:
        EvaluationError: the baseline's loss is not finite.
        ConfigurationError: the edit does not fit the model.
    """
    watch = Stopwatch()
    with watch.phase("baseline"):
        windows, losses = baseline_draw(run, baseline, request.run)
    seed = baseline.prepared.plan.seed
    context = (
        edited(baseline.model, baseline.layout, request.edit, seed=seed)
        if request.edit is not None
        else injected(baseline.model, baseline.layout, str(request.scenario.error_type), seed=seed)
    )
    with contextlib.ExitStack() as stack:
        with watch.phase("edit"):
            report = stack.enter_context(context)
        yield Subject(baseline, request, report, windows, losses, watch)


def certify(run: Run, subject: Subject) -> JsonObject:
    """Measure an edited model against its baseline and return the certificate."""
    baseline, watch = subject.baseline, subject.stopwatch
    with watch.phase("structure"):
        structure = measure_structure(baseline.model, baseline.layout, baseline.prepared.tokenizer_size)
    violations = compare_structure(baseline.structure, structure, run.policy.section("invariants"))
    with watch.phase("forward"):
        losses = measure_draw(baseline.model, subject.windows)
    with watch.phase("digest"):
        digest = weights_digest(baseline.model)
    prepared = baseline.prepared
    evidence = Evidence(
        request=subject.request,
        suite=run.suite.name,
        profile=run.settings.profile,
        policy=run.policy,
        plan=prepared.plan,
        text=prepared.text.facts,
        baseline=subject.baseline_losses,
        subject=losses,
        structures=(baseline.structure, structure),
        violations=violations,
        model=ModelFacts(
            revision=baseline.spec.revision,
            device=baseline.device.type,
            dtype=str(baseline.model.dtype).removeprefix("torch."),
            tokenizer_hash=prepared.tokenizer_hash,
            determinism={"requested": run.settings.determinism, "reached": baseline.determinism},
            baseline_digest=baseline.digest,
            subject_digest=digest,
        ),
        touched=subject.report.parameters,
        details=dict(subject.report.details),
        volatile=_volatile(watch, losses),
    )
    return build_certificate(evidence)


def _volatile(watch: Stopwatch, losses: Draw) -> JsonObject:
    tokens = sum(losses.preview.token_counts) + sum(losses.final.token_counts)
    return {
        "generated_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": {name: round(value, 4) for name, value in watch.seconds.items()},
        "tokens_per_second": round(tokens / watch.seconds["forward"], 1),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
