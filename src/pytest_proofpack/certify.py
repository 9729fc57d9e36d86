"""One scenario -> one certificate. The only place that sees baseline and edited model together."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

from pytest_proofpack.baseline import Baseline, BaselineDraw, baseline_draw, side_losses
from pytest_proofpack.certificate import Evidence, ModelFacts, build_certificate
from pytest_proofpack.edits import EditReport, edited, injected
from pytest_proofpack.guards.distribution import distribution_evidence
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.guards.moe import moe_evidence
from pytest_proofpack.guards.overhead import overhead_evidence
from pytest_proofpack.guards.rmt import rmt_evidence
from pytest_proofpack.guards.variance import proposed_scales, variance_evidence
from pytest_proofpack.jsonio import JsonObject
from pytest_proofpack.losses import default_batch_size
from pytest_proofpack.measures.activations import measure_activations, scaled_losses
from pytest_proofpack.measures.distribution import SubjectDistribution
from pytest_proofpack.measures.spectra import measure_spectra
from pytest_proofpack.measures.structure import measure_structure
from pytest_proofpack.records import CertificateRequest, Draw, WindowLosses
from pytest_proofpack.run import Run

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
        draw: the windows to measure on, and what the unedited model reads on them.
        stopwatch: times so far.
    """

    baseline: Baseline
    request: CertificateRequest
    report: EditReport
    draw: BaselineDraw
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
        draw = baseline_draw(run, baseline, request.run)
    seed = baseline.prepared.plan.seed
    context = (
        edited(baseline.model, baseline.layout, request.edit, seed=seed)
        if request.edit is not None
        else injected(baseline.model, baseline.layout, str(request.scenario.error_type), seed=seed)
    )
    with contextlib.ExitStack() as stack:
        with watch.phase("edit"):
            report = stack.enter_context(context)
        yield Subject(baseline, request, report, draw, watch)


def certify(run: Run, subject: Subject) -> JsonObject:
    """Measure an edited model against its baseline and return the certificate."""
    baseline, prepared, watch = subject.baseline, subject.baseline.prepared, subject.stopwatch
    with watch.phase("structure"):
        structure = measure_structure(baseline.model, baseline.layout, prepared.tokenizer_size)
    losses, distribution = _measure_losses(subject)
    guards = {
        **_weight_and_activation_evidence(run, subject, losses.preview),
        "distribution": distribution,
        "guard_overhead": _overhead(subject),
    }
    return build_certificate(
        Evidence(
            request=subject.request,
            suite=run.suite.name,
            profile=run.settings.profile,
            policy=run.policy,
            plan=prepared.plan,
            text=prepared.text.facts,
            baseline=subject.draw.losses,
            subject=losses,
            structures=(baseline.structure, structure),
            violations=compare_structure(baseline.structure, structure, run.policy.section("invariants")),
            guards=guards,
            model=ModelFacts(
                revision=baseline.spec.revision,
                device=baseline.device.type,
                dtype=str(baseline.model.dtype).removeprefix("torch."),
                tokenizer_hash=prepared.tokenizer_hash,
                determinism={"requested": run.settings.determinism, "reached": baseline.determinism},
                baseline_digest=baseline.digest,
            ),
            touched=subject.report.parameters,
            details=dict(subject.report.details),
            volatile=_volatile(watch, losses),
        )
    )


def _measure_losses(subject: Subject) -> tuple[Draw, JsonObject]:
    """Return the losses, and the evidence on distributions that the same forward pass of the final windows gives."""
    model, windows, watch = subject.baseline.model, subject.draw.windows, subject.stopwatch
    observer = SubjectDistribution(subject.draw.distribution)
    with watch.phase("forward"):
        preview = side_losses(model, windows.preview, windows.preview_ids)
        final = side_losses(model, windows.final, windows.final_ids, observer)
    with watch.phase("distribution"):
        return Draw(preview, final), distribution_evidence(observer.facts())


def _weight_and_activation_evidence(run: Run, subject: Subject, preview: WindowLosses) -> JsonObject:
    """Return the evidence of the guards on spectra, activations and routers."""
    baseline, draw, watch = subject.baseline, subject.draw, subject.stopwatch
    model, layout = baseline.model, baseline.layout
    contract = run.policy.section("rmt")["measurement_contract"]
    with watch.phase("spectral"):
        spectra = measure_spectra(
            model, layout, baseline.spectra.contract, baseline=baseline.spectra, changed=subject.report.parameters
        )
    with watch.phase("activations"):
        windows, before = draw.windows.preview, draw.activations
        after = measure_activations(model, layout, windows, contract, baseline=before).facts
        variance = variance_evidence(before.facts, after)
        scales = proposed_scales(variance)
        if scales:
            scaled = scaled_losses(model, windows, scales, contract).tolist()
            variance = variance_evidence(before.facts, after, (preview.losses[: len(scaled)], scaled))
    return {
        "spectral": spectra.evidence.to_json(),
        "rmt": rmt_evidence(before.facts, after, baseline.null_log_ratios),
        "variance": variance,
        "moe": moe_evidence(before.facts, after),
    }


def _overhead(subject: Subject) -> JsonObject:
    """Measure the last batch of final windows once more, without observers.

    The very same batch: the bits of a matrix product depend on its size. The last one is often the smallest.
    """
    model, windows = subject.baseline.model, subject.draw.windows
    count, batch = len(windows.final), default_batch_size(windows.final.shape[1], model.device)
    last = (count - 1) // batch * batch
    with subject.stopwatch.phase("overhead"):
        bare = side_losses(model, windows.final[last:], windows.final_ids[last:])
    return overhead_evidence(bare.losses)


def _volatile(watch: Stopwatch, losses: Draw) -> JsonObject:
    tokens = sum(losses.preview.token_counts) + sum(losses.final.token_counts)
    return {
        "generated_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": {name: round(value, 4) for name, value in watch.seconds.items()},
        "tokens_per_second": round(tokens / watch.seconds["forward"], 1),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
