"""What a run reads from the hub: its models and its data set, the commits they are pinned to, where they lie.

Nothing here opens a socket or looks into the cache; see :mod:`pytest_proofpack.sources.preflight`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role, is_commit, now, read_revisions
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.plan.text_sources import PROVIDERS
from pytest_proofpack.runs.run import Run

Place = tuple[Role, str]
"""A role and a key, as the revisions document has them."""


@dataclass(frozen=True)
class Source:
    """A repository of the hub that a run reads.

    Attributes:
        role: what it is to the run.
        key: the name of its pin.
        id: the repository.
        asked: branch, tag or commit that the user or the suite asks for; None for the default branch.
        license: what the suite says.
        remote_code: whether code that comes with the model may run.
        text: the text, if this is a data set.
    """

    role: Role
    key: str
    id: str
    asked: str | None
    license: str | None = None
    remote_code: bool = False
    text: TextSpec | None = None

    @property
    def place(self) -> Place:
        """Where its pin is found."""
        return self.role, self.key

    @property
    def kind(self) -> str:
        """``model`` or ``dataset``, as the hub calls it."""
        return "dataset" if self.role is Role.DATASET else "model"

    def __str__(self) -> str:
        return f"data set {self.id}" if self.role is Role.DATASET else self.id


@dataclass(frozen=True)
class Found:
    """A source with its pin, and its directory and the files of it that the run needs, as far as they are known."""

    pin: Pin
    path: Path | None = None
    files: tuple[str, ...] = ()


def sources_of(run: Run) -> tuple[Source, ...]:
    """List what a run reads from the hub: models, edited models and a data set without a path of their own.

    Raises:
        ConfigurationError: a local directory claims a revision that is no commit.
    """
    found = [_model_source(Role.MODEL, model.id, model) for model in run.suite.models]
    subjects = _subject_keys(run)
    found += [_model_source(Role.SUBJECT, subjects[name], model) for name, model in run.suite.subjects.items()]
    sources = [source for source in found if source is not None]
    text = run.suite.text
    if text.provider in PROVIDERS and text.path is None and text.dataset is not None:
        sources.append(Source(Role.DATASET, text.dataset, text.dataset, text.revision, text=text))
    return tuple(sources)


def given_pins(run: Run, sources: tuple[Source, ...]) -> dict[Place, Pin]:
    """Return the pins that are known without asking the hub: by hand, from the suite, or from a revisions file.

    A file decides what a branch or tag stands for; two different commits are a contradiction.

    Raises:
        ConfigurationError: the file cannot be used, or contradicts what is asked for.
    """
    file = run.settings.revisions
    listed = read_revisions(Path(file).expanduser()).pins if file is not None else {}
    pins: dict[Place, Pin] = {}
    problems = []
    for source in sources:
        pin = listed.get(source.place)
        if pin is not None and pin.revision is not None:
            if is_commit(source.asked) and source.asked != pin.revision:
                problems.append(
                    f"{source}: commit {source.asked} is asked for, but --proofpack-revisions={file} has {pin.revision}"
                )
            pins[source.place] = replace(pin, license=pin.license or source.license)
        elif is_commit(source.asked):
            pins[source.place] = Pin(source.asked, license=source.license)
    refuse(problems, "Correct one of the two.")
    return pins


def refuse(problems: list[str], advice: str) -> None:
    """Raise one error over all problems, one a line; nothing happens if there are none.

    Raises:
        ConfigurationError: with every problem, and what to do about them at the end.
    """
    if len(problems) == 1:
        raise ConfigurationError(f"{problems[0]}. {advice}".strip())
    if problems:
        lines = "\n  ".join(problems)
        raise ConfigurationError(f"{len(problems)} things are in the way:\n  {lines}\n{advice}".strip())


def revisions_of(run: Run, pins: Mapping[Place, Pin]) -> Revisions:
    """Return the run's revisions document; local models stand there without a commit, unless they claim one."""
    models = {(Role.MODEL, model.id): Pin(model.revision, license=model.license) for model in run.suite.models}
    return Revisions(
        suite=run.suite.name,
        generated_at=now(),
        model_list=tuple(model.id for model in run.suite.models),
        pins={**models, **pins},
    )


def resolved_run(run: Run, found: Mapping[Place, Found]) -> Run:
    """Return the run with commit, licence and directory of every source filled in, in suite and requests alike."""
    suite, keys = run.suite, _subject_keys(run)
    models = {model.id: _resolved(model, found.get((Role.MODEL, model.id))) for model in suite.models}
    subjects = {name: _resolved(model, found.get((Role.SUBJECT, keys[name]))) for name, model in suite.subjects.items()}
    text = suite.text
    place = found.get((Role.DATASET, text.dataset)) if text.dataset is not None and text.path is None else None
    if place is not None:
        text = replace(text, revision=place.pin.revision, path=place.path)
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
    return resolved_run(run, {place: Found(pin) for place, pin in revisions.pins.items()})


def _resolved(model: ModelSpec, found: Found | None) -> ModelSpec:
    if found is None or model.path is not None:
        return model
    return replace(
        model,
        revision=found.pin.revision,
        license=found.pin.license or model.license,
        path=found.path,
        files=found.files,
    )


def _subject_keys(run: Run) -> dict[str, str]:
    """Return the key of every subject's pin, by scenario."""
    counts = Counter(model.id for model in run.suite.subjects.values())
    return {
        name: model.id if counts[model.id] == 1 else f"{model.id}@{model.revision}"
        for name, model in run.suite.subjects.items()
    }


def _model_source(role: Role, key: str, model: ModelSpec) -> Source | None:
    """Return the source of a model, or None if it lies in a directory of the user's."""
    if model.path is None:
        return Source(role, key, model.id, model.revision, model.license, model.trust_remote_code)
    if model.revision is not None and not is_commit(model.revision):
        raise ConfigurationError(
            f"{model.id}: a local directory has no branches, so it cannot be at revision {model.revision!r}. Leave the "
            "revision out, or give the full hash of the commit that the directory was made from."
        )
    return None
