"""The pins of a run: the commit of every source, from a user, a suite or a revisions file, put into the run.

Nothing here opens a socket or looks into the cache; see :mod:`pytest_proofpack.sources.preflight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_proofpack.common.problems import refuse
from pytest_proofpack.plan.pins import Pin, Revisions, Role, is_commit, now, read_revisions
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run
from pytest_proofpack.sources.source import Snapshot, Source, SourceKey, subject_names


def given_pins(run: Run, sources: tuple[Source, ...]) -> dict[SourceKey, Pin]:
    """Return the pins that are known without asking the hub: by hand, from the suite, or from a revisions file.

    A file decides what a branch or tag stands for; two different commits are a contradiction.

    Raises:
        ConfigurationError: the file cannot be used, or contradicts what is asked for.
    """
    file = run.settings.revisions
    listed = read_revisions(Path(file).expanduser()).pins if file is not None else {}
    pins: dict[SourceKey, Pin] = {}
    problems = []
    for source in sources:
        pin = listed.get(source.key)
        if pin is not None and pin.revision is not None:
            if is_commit(source.revision) and source.revision != pin.revision:
                asked = f"{source}: commit {source.revision} is asked for"
                problems.append(f"{asked}, but --proofpack-revisions={file} has {pin.revision}")
            pins[source.key] = replace(pin, license=pin.license or source.license)
        elif is_commit(source.revision):
            pins[source.key] = Pin(source.revision, license=source.license)
    refuse(problems, "Correct one of the two.")
    return pins


def revisions_of(run: Run, pins: Mapping[SourceKey, Pin]) -> Revisions:
    """Return the run's revisions document; local models stand there without a commit, unless they claim one."""
    models = {(Role.MODEL, model.id): Pin(model.revision, license=model.license) for model in run.unedited}
    return Revisions(
        suite=run.suite.name,
        generated_at=now(),
        model_list=tuple(model.id for model in run.suite.models),
        pins={**models, **pins},
    )


def resolved_run(run: Run, snapshots: Mapping[SourceKey, Snapshot]) -> Run:
    """Return the run with commit, licence and directory of every source filled in, in suite and requests alike."""
    suite, names = run.suite, subject_names(run)
    models = {model.id: _resolved(model, snapshots.get((Role.MODEL, model.id))) for model in suite.models}
    subjects = {
        scenario: _resolved(model, snapshots.get((Role.SUBJECT, names[scenario])))
        for scenario, model in suite.subjects.items()
    }
    text = suite.text
    if text.dataset is not None and text.path is None:
        snapshot = snapshots.get((Role.DATASET, text.dataset))
        if snapshot is not None:
            text = replace(text, revision=snapshot.pin.revision, path=snapshot.path)
    requests = tuple(
        replace(request, model=models[request.model.id], subject=subjects.get(request.scenario.id))
        for request in run.requests
    )
    return replace(
        run,
        suite=replace(suite, models=tuple(models.values()), subjects=subjects, text=text),
        plan=replace(run.plan, requests=requests),
    )


def pinned_run(run: Run, revisions: Revisions) -> Run:
    """Return the run at the commits that the controller decided on; directories are looked for when they are needed."""
    return resolved_run(run, {key: Snapshot(pin) for key, pin in revisions.pins.items()})


def _resolved(model: ModelSpec, snapshot: Snapshot | None) -> ModelSpec:
    if snapshot is None or model.path is not None:
        return model
    return replace(
        model,
        revision=snapshot.pin.revision,
        license=snapshot.pin.license or model.license,
        path=snapshot.path,
        files=snapshot.files,
    )
