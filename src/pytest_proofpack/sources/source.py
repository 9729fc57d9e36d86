"""What a run reads from the hub: its models, its edited models and its data set.

Nothing here opens a socket or looks into the cache.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Role, is_commit
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.plan.text_sources import TEXT_SOURCES
from pytest_proofpack.runs.run import Run

SourceKey = tuple[Role, str]
"""A role and a name, by which the revisions document has pins."""


@dataclass(frozen=True)
class Source:
    """A repository of the hub that a run reads.

    Attributes:
        role: what it is to the run.
        name: what its pin is called in a revisions document.
        id: the repository.
        revision: branch, tag or commit that the user or the suite asks for; None for the default branch.
        license: what the suite says.
        remote_code: whether code that comes with the model may run.
        text: the text, if this is a data set.
    """

    role: Role
    name: str
    id: str
    revision: str | None
    license: str | None = None
    remote_code: bool = False
    text: TextSpec | None = None

    @property
    def key(self) -> SourceKey:
        """Where its pin is found."""
        return self.role, self.name

    @property
    def kind(self) -> str:
        """``model`` or ``dataset``, as the hub calls it."""
        return "dataset" if self.role is Role.DATASET else "model"

    def __str__(self) -> str:
        return f"data set {self.id}" if self.role is Role.DATASET else self.id


@dataclass(frozen=True)
class Snapshot:
    """A source at one commit, in the cache.

    Attributes:
        pin: the commit, and what the hub says of the repository.
        path: its directory; None where that is not known yet, or is another machine's.
        files: the files of it that the run needs; empty if that is not known.
    """

    pin: Pin
    path: Path | None = None
    files: tuple[str, ...] = ()


def sources_of(run: Run) -> tuple[Source, ...]:
    """List what a run reads from the hub: models, edited models and a data set without a path of their own.

    Raises:
        ConfigurationError: a local directory claims a revision that is no commit.
    """
    found = [_model_source(Role.MODEL, model.id, model) for model in run.unedited]
    names = subject_names(run)
    found += [_model_source(Role.SUBJECT, names[scenario], model) for scenario, model in run.subjects.items()]
    sources = [source for source in found if source is not None]
    text = run.suite.text
    if TEXT_SOURCES.require(text.provider).is_dataset and text.path is None and text.dataset is not None:
        sources.append(Source(Role.DATASET, text.dataset, text.dataset, text.revision, text=text))
    return tuple(sources)


def subject_names(run: Run) -> dict[str, str]:
    """Return what the pin of every edited model is called, by scenario: its id, or id and revision."""
    counts = Counter(model.id for model in run.suite.subjects.values())
    return {
        scenario: model.id if counts[model.id] == 1 else f"{model.id}@{model.revision}"
        for scenario, model in run.suite.subjects.items()
    }


def _model_source(role: Role, name: str, model: ModelSpec) -> Source | None:
    """Return the source of a model, or None if it lies in a directory of the user's."""
    if model.path is None:
        return Source(role, name, model.id, model.revision, model.license, model.trust_remote_code)
    if model.revision is not None and not is_commit(model.revision):
        raise ConfigurationError(
            f"{model.id}: a local directory has no branches, so it cannot be at revision {model.revision!r}. Leave the "
            "revision out, or give the full hash of the commit that the directory was made from."
        )
    return None
