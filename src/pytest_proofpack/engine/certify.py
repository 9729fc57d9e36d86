"""One scenario -> one certificate. The only place that sees baseline and edited model together.

The edited model is the baseline itself, edited in place, or a checkpoint that somebody else has edited.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from transformers import PreTrainedModel

from pytest_proofpack.certificate.build import Evidence, ModelFacts, build_certificate
from pytest_proofpack.certificate.kept_text import kept, worst_windows
from pytest_proofpack.common.stopwatch import Stopwatch
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.edits.target import EditReport
from pytest_proofpack.engine.baseline import Baseline, BaselineSample, baseline_sample
from pytest_proofpack.engine.directions import measured_directions
from pytest_proofpack.engine.edited_checkpoint import Checkpoint, baseline_values
from pytest_proofpack.engine.foreign_guards import foreign_evidence
from pytest_proofpack.engine.input_facts import input_facts
from pytest_proofpack.engine.passes import calibration_losses, sample_losses
from pytest_proofpack.engine.readings import reading_facts
from pytest_proofpack.engine.tool_checks import tool_facts
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.activations import ActivationFacts, calibration_windows
from pytest_proofpack.guards.baseline_quality import baseline_evidence
from pytest_proofpack.guards.distribution import distribution_evidence
from pytest_proofpack.guards.generation import generation_evidence
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.guards.label import label_evidence
from pytest_proofpack.guards.moe import moe_evidence
from pytest_proofpack.guards.overhead import overhead_evidence
from pytest_proofpack.guards.rmt import rmt_evidence
from pytest_proofpack.guards.structure import StructureMeasure
from pytest_proofpack.guards.variance import proposed_scales, variance_evidence
from pytest_proofpack.measures.activations import ActivationMeasure, ActivationWatch, measure_activations, scaled_losses
from pytest_proofpack.measures.distribution import SubjectDistribution
from pytest_proofpack.measures.generation import generation_facts
from pytest_proofpack.measures.label import measure_label
from pytest_proofpack.measures.spectra import measure_spectra
from pytest_proofpack.measures.structure import measure_structure
from pytest_proofpack.measures.tokenizer_sections import section_facts
from pytest_proofpack.models.device import wait_for
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.forward import BatchSize
from pytest_proofpack.models.layout import input_embedding
from pytest_proofpack.models.said_twice import compared_config, said_beside
from pytest_proofpack.plan.byoe import settled_request
from pytest_proofpack.plan.records import (
    CertificateRequest,
    EditSpec,
    FaultSpec,
    SubjectEdit,
    ToolEdit,
    WindowLosses,
    WindowSample,
)
from pytest_proofpack.runs.run import Run

_LIBRARIES = ("numpy", "safetensors", "scipy", "torch", "transformers")


@dataclass(frozen=True)
class Subject:
    """An edited model, ready to be measured.

    Attributes:
        baseline: what was edited; its ``model`` is the edited model until the context ends, unless there is a
            checkpoint.
        request: the certificate to be made.
        report: what the edit says about itself.
        draw: the windows to measure on, and what the unedited model reads on them.
        stopwatch: times so far.
        checkpoint: the edited model, if it was loaded.
    """

    baseline: Baseline
    request: CertificateRequest
    report: EditReport
    draw: BaselineSample
    stopwatch: Stopwatch
    checkpoint: Checkpoint | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The edited model, as it runs."""
        return self.baseline.model if self.checkpoint is None else self.checkpoint.model

    @property
    def weights(self) -> PreTrainedModel:
        """What its weights are worth, dense: asked for whatever is said of parameters, and never run."""
        return self.baseline.model if self.checkpoint is None else self.checkpoint.weights

    @property
    def label(self) -> str | None:
        """What the edit of a loaded checkpoint is called; None of a model edited in memory."""
        return None if self.checkpoint is None else self.request.edit_name


@contextlib.contextmanager
def edited_subject(run: Run, baseline: Baseline, request: CertificateRequest) -> Iterator[Subject]:
    """Measure the baseline, apply the request's edit or fault in place, and put everything back afterwards.

    Raises:
        EvaluationError: the baseline's loss is not finite.
        ConfigurationError: the edit does not fit the model.
        RestoreError: at the end, the baseline can't be put back.

    Where putting back fails, or the edit itself halfway, the baseline is released: whoever needs it loads it again.
    """
    watch = Stopwatch()
    with watch.phase("baseline"):
        draw = baseline_sample(run, baseline, request.run)
    model, layout, seed = baseline.model, baseline.layout, baseline.prepared.plan.seed
    assert isinstance(request.edit, EditSpec | FaultSpec)  # others leave checkpoints: loaded_subject()
    context = edited(model, layout, request.edit, seed=seed, originals=baseline.originals)
    of_the_body: BaseException | None = None
    try:
        with contextlib.ExitStack() as stack:
            with watch.phase("edit"):
                report = stack.enter_context(context)
                wait_for(baseline.device)
            try:
                yield Subject(baseline, request, report, draw, watch)
            except BaseException as error:
                of_the_body = error
                raise
    except ConfigurationError:
        raise  # the edit does not fit the model, and nothing was begun
    except BaseException as error:
        if error is not of_the_body:
            baseline.release()
        raise


def loaded_subject(run: Run, baseline: Baseline, request: CertificateRequest, checkpoint: Checkpoint) -> Subject:
    """Return a checkpoint that was edited elsewhere, or by a tool, as the subject of a request.

    The label of one that was edited elsewhere is settled by the digests.

    Raises:
        EvaluationError: the baseline's loss is not finite.
        ConfigurationError: the user's label contradicts the digests.
    """
    if request.subject is not None:
        request = settled_request(request, baseline.digest, checkpoint.prepared.digest, checkpoint.prepared.label)
    made = {} if checkpoint.made_seconds is None else {"tool": checkpoint.made_seconds}
    watch = Stopwatch({**made, "load": checkpoint.load_seconds})
    with watch.phase("baseline"):
        draw = baseline_sample(run, baseline, request.run)
    facts = {
        "loading_warnings": list(checkpoint.warnings),
        "adapter": checkpoint.prepared.addition,
        "tool": tool_facts(request.edit),
    }
    details = {name: value for name, value in facts.items() if value}
    report = EditReport(request.edit_name, checkpoint.changes.touched, details, baseline_values(baseline))
    return Subject(baseline, request, report, draw, watch, checkpoint)


def certify(run: Run, subject: Subject) -> JsonObject:
    """Measure an edited model against its baseline and return the certificate."""
    baseline, prepared, watch = subject.baseline, subject.baseline.prepared, subject.stopwatch
    with watch.phase("structure"):
        structures = _structures(subject)
    contract = run.activation_contract
    losses, activations, distribution = _measure_losses(run, subject)
    guards = {
        "guard_overhead": _overhead(subject, calibration_windows(contract, prepared.plan.seq_len)),
        **_weight_and_activation_evidence(run, subject, activations.facts, losses.preview),
        **_direction(run, subject, activations),
        "distribution": distribution,
        "label": _label(subject),
        "baseline_quality": baseline_evidence(subject.draw.windows.final),
        "generation": _generation(subject),
        "readings": reading_facts(None if subject.checkpoint is None else subject.checkpoint.prepared.spec),
    }
    with watch.phase("foreign_guards"):
        foreign = foreign_evidence(
            subject.draw.foreign, subject.model, baseline.layout, subject.draw.windows, subject.request
        )
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
            structures=structures,
            violations=compare_structure(*structures, run.policy.section("invariants"), subject.label),
            guards=guards,
            model=ModelFacts(
                revision=baseline.spec.revision,
                device=baseline.device.type,
                dtype=str(subject.model.dtype).removeprefix("torch."),
                tokenizer_hash=prepared.tokenizer_hash,
                determinism={"requested": run.settings.determinism, "reached": baseline.determinism},
                baseline_digest=baseline.digest,
                subject_digest=None if subject.checkpoint is None else subject.checkpoint.prepared.digest,
                inputs=_input_facts(subject),
            ),
            touched=subject.report.parameters,
            details=dict(subject.report.details),
            changes=None if subject.checkpoint is None else subject.checkpoint.changes,
            extensions=[extension.to_json() for extension in run.extensions],
            volatile=_volatile(watch, losses, baseline.batch),
            foreign=foreign,
            kept_text=_kept_text(subject, losses.final) if run.settings.keep_text else (),
        )
    )


def _kept_text(subject: Subject, losses: WindowLosses) -> list[JsonObject]:
    """Return the text of the final windows that lost most, as the baseline's tokenizer reads it."""
    prepared, draw = subject.baseline.prepared, subject.draw
    worst = worst_windows(losses.losses, draw.losses.final.losses)
    return kept({losses.ids[index]: prepared.tokenizer.decode(draw.windows.final[index].tolist()) for index in worst})


def _label(subject: Subject) -> JsonObject:
    """Return what was counted of a loaded subject's label; the edit of a model edited in memory is known."""
    edit, checkpoint, baseline = subject.request.edit, subject.checkpoint, subject.baseline
    if checkpoint is None:
        return label_evidence(None, None)
    assert isinstance(edit, SubjectEdit | ToolEdit)
    with subject.stopwatch.phase("label"):
        counted = measure_label(
            edit.label, checkpoint.weights, baseline.layout, checkpoint.changes, baseline_values(baseline)
        )
    return label_evidence(edit.origin, counted)


def _input_facts(subject: Subject) -> JsonObject:
    baseline, checkpoint = subject.baseline, subject.checkpoint
    loaded = None if checkpoint is None else checkpoint.prepared
    return input_facts(baseline.prepared, baseline.model, subject.model, loaded)


def _structures(subject: Subject) -> tuple[StructureMeasure, StructureMeasure]:
    """Return the structures of baseline and subject; those of a checkpoint say how it was loaded and tokenizes."""
    baseline, checkpoint, size = subject.baseline, subject.checkpoint, subject.baseline.prepared.tokenizer_size
    if checkpoint is None:
        return baseline.structure, measure_structure(baseline.model, baseline.layout, size)
    measured = measure_structure(
        checkpoint.weights,
        baseline.layout,
        size,
        loading=checkpoint.loading,
        tokenizer=checkpoint.prepared.tokenizer_hash or baseline.prepared.tokenizer_hash,
    )
    both = CheckpointFiles.of(checkpoint.prepared.spec), CheckpointFiles.of(baseline.spec)
    config = compared_config(baseline.structure.config, measured.config, *map(said_beside, both))
    measured = replace(measured, config=config)
    return replace(baseline.structure, tokenizer=baseline.prepared.tokenizer_hash), measured


def _measure_losses(run: Run, subject: Subject) -> tuple[WindowSample, ActivationMeasure, JsonObject]:
    """Return the losses, and what the same forward passes tell: activations, and the evidence on distributions."""
    baseline, draw, watch = subject.baseline, subject.draw, subject.stopwatch
    windows, size = draw.windows, baseline.batch
    contract = run.activation_contract
    observer = SubjectDistribution(draw.distribution)
    hooks = (subject.model, baseline.layout, windows.preview, contract)
    embedding = input_embedding(subject.weights).weight
    with watch.phase("forward"):
        activations = ActivationWatch(*hooks, baseline=draw.activations, embedding=embedding)
        count, watching = activations.windows, activations.watching()
        losses = sample_losses(subject.model, windows, size, count, watching=watching, observer=observer)
    with watch.phase("activations"):
        if activations.missed:  # logits of so many windows did not fit; hidden states may
            measured = measure_activations(*hooks, baseline=draw.activations, embedding=embedding)
        else:
            measured = activations.result()
    with watch.phase("distribution"):
        return losses, measured, distribution_evidence(observer.facts())


def _weight_and_activation_evidence(
    run: Run, subject: Subject, after: ActivationFacts, preview: WindowLosses
) -> JsonObject:
    """Return the evidence of the guards on spectra, activations and routers."""
    baseline, draw, watch = subject.baseline, subject.draw, subject.stopwatch
    layout, contract = baseline.layout, run.activation_contract
    with watch.phase("spectral"):
        spectra = measure_spectra(
            *(subject.weights, layout, baseline.spectra.contract),
            baseline=baseline.spectra,
            changed=subject.report.parameters,
        )
    with watch.phase("variance"):
        before = draw.activations.facts
        variance = variance_evidence(before, after)
        scales = proposed_scales(variance)
        if scales:
            scaled = scaled_losses(subject.model, draw.windows.preview, scales, contract, baseline.batch).tolist()
            variance = variance_evidence(before, after, (preview.losses[: len(scaled)], scaled))
    return {
        "spectral": spectra.evidence.to_json(),
        "rmt": rmt_evidence(before, after, baseline.null_log_ratios),
        "variance": variance,
        "moe": moe_evidence(before, after),
    }


def _direction(run: Run, subject: Subject, after: ActivationMeasure) -> JsonObject:
    """Return the evidence of the guards on where weights point, and in which place they stand."""
    baseline = subject.baseline
    with subject.stopwatch.phase("direction"):
        return measured_directions(
            *(subject.weights, baseline.layout, subject.report),
            tokenizer=baseline.prepared.tokenizer,
            grown=() if subject.checkpoint is None else subject.checkpoint.changes.grown,
            rules=run.policy.section("direction"),
            activations=(subject.draw.activations, after),
            windows=subject.draw.windows,
        )


def _overhead(subject: Subject, windows: int) -> JsonObject:
    """Measure the calibration windows once more, without hooks, in the very same batch."""
    with subject.stopwatch.phase("overhead"):
        bare = calibration_losses(subject.model, subject.draw.windows, subject.baseline.batch, windows)
    return overhead_evidence(bare.losses)


def _generation(subject: Subject) -> JsonObject:
    """Return what steers generation in both, of a subject that has files of its own."""
    baseline, checkpoint = subject.baseline, subject.checkpoint
    if checkpoint is None:
        return generation_evidence(None, None)
    files = CheckpointFiles.of(checkpoint.prepared.spec)
    both = ((baseline.model, CheckpointFiles.of(baseline.spec)), (checkpoint.model, files))
    counted = {
        "with_tokenizer": all(there.tokenizer_files for _, there in both),
        "with_template": all(there.tokenizer_files or there.holds_tokenizer for _, there in both),
    }
    sections = section_facts(*(there for _, there in both))
    facts = (generation_facts(model, there, **counted) for model, there in both)
    return generation_evidence(*({**own, **more} for own, more in zip(facts, sections, strict=True)))


def _volatile(watch: Stopwatch, losses: WindowSample, batch: BatchSize) -> JsonObject:
    tokens = sum(losses.preview.token_counts) + sum(losses.final.token_counts)
    return {
        "generated_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": {name: round(value, 4) for name, value in watch.seconds.items()},
        "batch": {"windows": batch.windows, "halvings": batch.halvings},
        "tokens_per_second": round(tokens / watch.seconds["forward"], 1),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
