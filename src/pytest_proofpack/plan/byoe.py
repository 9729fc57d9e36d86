"""Bring your own edit: the plan for checkpoints that somebody has already edited, each against the same baseline.

The plan is a suite named ``byoe`` of one model. Every subject is a scenario of its own: it must pass every gate, in
every run. What its edit is called comes from the user, or from the subject's name, or else is ``custom``; files that
are the baseline's, byte for byte, are a ``noop`` whatever their name says, and what the files say of themselves, a
quantization say, counts more than their name. A label that the user gives is checked against both, and against the
values in the files too: a copy that was only saved anew is no edit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_proofpack.common.files import folder_names
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import EDITS, NOOP
from pytest_proofpack.plan.places import models_at
from pytest_proofpack.plan.quantization import contradicts_form
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, SubjectEdit, TextSpec
from pytest_proofpack.plan.scenarios import RESERVED, subject_entry
from pytest_proofpack.plan.suites import Plan, Suite, WindowChoice, named_models

NAME = "byoe"
"""The name of the suite."""
DEFAULT_RUNS: Mapping[str, int] = {"calibration": 1, "clean": 1, "stress": 0, "error": 0}
"""One calibration, for the null statistics of the RMT guard's tolerances, and one certificate per subject."""
CUSTOM = "custom"

_LABEL = re.compile(r"[a-z0-9][A-Za-z0-9_.:+-]{0,99}")
_WORD = re.compile(r"[a-z0-9]+")
_LONGEST_ID = 80


def byoe_suite(
    baseline: str, subjects: Sequence[str], *, label: str | None, text: TextSpec, runs: Mapping[str, int]
) -> Suite:
    """Return the suite of one baseline and its edited models.

    Args:
        baseline: directory, or hub id as ``ID[@REV]``.
        subjects: likewise; a directory that is neither a model nor an adapter stands for those that lie directly in it.
        label: what the edit is called, as the user gave it; None to infer it.
        text: the evaluation text.
        runs: how often, as far as the user says so; kinds other than ``calibration`` and ``clean`` have no meaning.

    Raises:
        ConfigurationError: no subject, one named twice, a directory that holds no model, or a label of other
            characters than file names have.
    """
    if label is not None and not _LABEL.fullmatch(label):
        raise ConfigurationError(
            f"--proofpack-edit-label={label}: use 1 to 100 letters, digits, '_', '.', ':', '+' and '-', a small "
            "letter or digit first, for example quant_rtn or compressed-tensors:W4A16."
        )
    given = [path for text_ in subjects for path in _model_directories(text_)]
    if not given:
        raise ConfigurationError("--proofpack-subject: name at least one edited model to certify.")
    base, *edited = named_models([baseline, *given], "--proofpack-baseline, --proofpack-subject")
    _require_distinct(edited)
    by_scenario = dict(zip(_scenario_ids(edited), edited, strict=True))
    edits = {scenario: _subject_edit(model, label) for scenario, model in by_scenario.items()}
    return Suite(
        name=NAME,
        models=(base,),
        text=text,
        windows=WindowChoice(),
        runs={**DEFAULT_RUNS, **{kind: runs[kind] for kind in ("calibration", "clean") if kind in runs}},
        scenarios=_document(edits),
        tuned={"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}},
        subjects=by_scenario,
    )


def settled_subject(
    subject: SubjectEdit,
    revision: str | None,
    baseline_digest: str,
    digest: str,
    has_same_values: Callable[[], bool] | None = None,
    *,
    told: str | None = None,
) -> SubjectEdit:
    """Return what is known of a subject once its files have been read: its digest, and the label that this leaves.

    Args:
        subject: as planned.
        revision: the subject's revision, resolved; None for a local directory.
        baseline_digest: OpenSSF root of the baseline's directory.
        digest: OpenSSF root of the subject's.
        has_same_values: tells whether other files hold the same values; asked only where the user's label depends on
            it. None where nobody can tell: then they do not.
        told: what the files themselves say that the edit is called; None if they say nothing.

    Raises:
        ConfigurationError: the user's label contradicts the files: files equal to the baseline's are no edit, nor are
            their values saved anew, and ``noop`` says that they are equal; or they have another form than it says.
    """
    unedited = digest == baseline_digest
    label, origin = subject.label, subject.origin
    if origin == "given":
        _check_given(subject, unedited, has_same_values, told)
    elif told is not None:
        label, origin = told, "files"
    if unedited:
        label, origin = NOOP, "digest"
    return replace(subject, label=label, origin=origin, revision=revision, digest=digest)


def unedited_subjects(scenarios: JsonObject) -> list[str]:
    """Return the scenarios of a settled document whose subject turned out to be the baseline."""
    return [entry["id"] for entry in scenarios["scenarios"] if entry["generation"].get("origin") == "digest"]


def _check_given(
    subject: SubjectEdit, unedited: bool, has_same_values: Callable[[], bool] | None, told: str | None
) -> None:
    """Make sure that files and values do not contradict the user's label; names of one's own claim nothing of values.

    Raises:
        ConfigurationError: they do.
    """
    what = None
    if unedited:
        what = None if subject.label == NOOP else "are the baseline's, byte for byte"
    elif subject.label in EDITS:
        same = has_same_values is not None and has_same_values()
        if same != (subject.label == NOOP):
            what = "hold the baseline's values, saved anew: nothing was changed" if same else "are not the baseline's"
    elif told is not None and contradicts_form(subject.label, told):
        what = f"say of themselves that they are {told}"
    if what is not None:
        raise ConfigurationError(
            f"--proofpack-edit-label={subject.label}: the files of {subject.model_id} {what}. Correct the label or the "
            "path, or leave the label out."
        )


def settled_request(
    request: CertificateRequest, baseline_digest: str, digest: str, told: str | None = None
) -> CertificateRequest:
    """Return a request with its edit settled, as :func:`settled_suite` has settled it when the run was prepared.

    Whether a label that the user gave holds of the values was asked there, once.
    """
    planned, model = request.edit, request.subject
    assert isinstance(planned, SubjectEdit)
    assert model is not None
    is_noop = planned.label == NOOP
    settled = settled_subject(planned, model.revision, baseline_digest, digest, lambda: is_noop, told=told)
    return replace(request, edit=settled)


def settled_suite(
    suite: Suite,
    plan: Plan,
    baseline_digest: str,
    digests: Mapping[str, str],
    has_same_values: Callable[[CertificateRequest], bool] | None = None,
    *,
    told: Mapping[str, str | None] | None = None,
) -> Suite:
    """Return the suite with every subject settled, for the run's ``state/scenarios.json``.

    Args:
        suite: a suite with subjects.
        plan: its plan.
        baseline_digest: OpenSSF root of the baseline's directory.
        digests: that of every subject, by scenario; one without stays as it was planned.
        has_same_values: tells whether a request's subject holds the baseline's values; None where nobody can.
        told: what the files of every subject that can be used say that its edit is called, by scenario. Of any other
            nothing but the digest is settled.

    Raises:
        ConfigurationError: see :func:`settled_subject`.
    """
    settled: dict[str, SubjectEdit] = {}
    for request in plan.requests:
        name = request.scenario.id
        if request.subject is not None and name in digests and name not in settled:
            asked = None if has_same_values is None else partial(has_same_values, request)
            planned, revision = request.edit, request.subject.revision
            assert isinstance(planned, SubjectEdit)
            if told is not None and name not in told:
                settled[name] = replace(planned, revision=revision, digest=digests[name])
                continue
            own = None if told is None else told[name]
            settled[name] = settled_subject(planned, revision, baseline_digest, digests[name], asked, told=own)
    entries = [
        subject_entry(name, settled[name]) if name in settled else entry
        for entry in suite.scenarios["scenarios"]
        for name in [entry["id"]]
    ]
    return replace(suite, scenarios={**suite.scenarios, "scenarios": entries})


def infer_label(model_id: str) -> str | None:
    """Return what a model's name says about its edit: the one label of which it holds a word; None if that fails.

    ``acme/llama-7b-quant_rtn-g32`` is ``quant_rtn``; ``llama-7b-int4`` does not say how, and ``pruned-svd`` says two
    things.
    """
    words = set(_WORD.findall(model_id.rpartition("/")[2].lower()))
    found = [label for label, kind in EDITS.items() if words & kind.told_by]
    return found[0] if len(found) == 1 else None


def _subject_edit(model: ModelSpec, label: str | None) -> SubjectEdit:
    if label is not None:
        return SubjectEdit(label, "given", model.id, model.revision)
    inferred = infer_label(model.id)
    origin = "default" if inferred is None else "inferred"
    return SubjectEdit(inferred or CUSTOM, origin, model.id, model.revision)


def _model_directories(text: str) -> list[str]:
    """Return the models in a directory, sorted; a model, or what is no directory, as it is."""
    path = Path(text).expanduser()
    found = models_at(path)
    if not found:
        raise ConfigurationError(
            f"--proofpack-subject={text}: neither it nor a directory in it holds a config.json, an "
            "adapter_config.json or a GGUF file. Name the directory of a model or an adapter, or one of several such."
        )
    return [text] if found == [path] else [str(child.absolute()) for child in found]


def _require_distinct(models: Sequence[ModelSpec]) -> None:
    keys = [(model.id, model.revision) for model in models]
    twice = sorted({model.id for model, key in zip(models, keys, strict=True) if keys.count(key) > 1})
    if twice:
        raise ConfigurationError(
            f"--proofpack-subject: several subjects are called {', '.join(twice)}. Name every one once, and rename a "
            "directory where two differ."
        )


def _scenario_ids(models: Sequence[ModelSpec]) -> list[str]:
    """Return a scenario id per subject, made of its name: in lower case, safe as a folder, and distinct."""
    ids = [model.id for model in models]
    names = [model.id if ids.count(model.id) == 1 else f"{model.id}@{model.revision}" for model in models]
    folders = folder_names(names)
    found = [folders[name].lstrip("._-") for name in names]
    if len(set(found)) == len(found) and all(0 < len(name) <= _LONGEST_ID and name not in RESERVED for name in found):
        return found
    return [f"subject_{number}" for number in range(1, len(models) + 1)]


def _document(edits: Mapping[str, SubjectEdit]) -> JsonObject:
    return {
        "schema": "proof_pack_scenarios_v1",
        "schema_version": 1,
        "scenarios": [subject_entry(name, edit) for name, edit in edits.items()],
    }
