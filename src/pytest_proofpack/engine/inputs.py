"""The inputs of a run on this machine, each checked once, before any weight is loaded.

Nothing heavy is imported before it is needed, so that a session that loads nothing starts fast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.files import FileState, changed_files
from pytest_proofpack.common.words import error_line
from pytest_proofpack.engine.readings import reading_facts
from pytest_proofpack.errors import ConfigurationError, ProofPackError
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, TextSpec
from pytest_proofpack.runs.conditions import LIBRARIES, Conditions
from pytest_proofpack.runs.paths import MARKER

if TYPE_CHECKING:
    from pytest_proofpack.devices.memory_plan import MemoryPlan
    from pytest_proofpack.devices.placement import ProcessDevices
    from pytest_proofpack.engine.prepared import Prepared, PreparedSubject
    from pytest_proofpack.runs.run import Run


class CheckedInputs:
    """Models, edited models and text of a run, as this process has found and checked them.

    What it says is measured or read once and stays as it is; it only comes to know more of them as they are asked for.

    Attributes:
        plans: the memory plan of every model that was checked, by id; empty without devices.
    """

    def __init__(self, run: Run, devices: ProcessDevices | None = None) -> None:
        """Check nothing yet.

        Args:
            run: the run, with every source resolved.
            devices: those of this process; None plans no memory.
        """
        self._run = run
        self._devices = devices
        self._text: TextSpec | None = None
        self._prepared: dict[str, Prepared] = {}
        self._subjects: dict[str, PreparedSubject] = {}
        self.plans: dict[str, MemoryPlan] = {}

    def prepare(self, model: ModelSpec) -> Prepared:
        """Return the checked inputs of a model: directory, tokenizer, text. Its memory is planned too.

        Raises:
            ConfigurationError: something about them cannot be used, or the model fits no device.
        """
        from pytest_proofpack.devices.model_shapes import plan_model
        from pytest_proofpack.engine.prepared import prepare_model

        if model.id not in self._prepared:
            prepared = prepare_model(self._run, self._located(model), self._located_text())
            if self._devices is not None:
                self.plans[model.id] = plan_model(prepared.spec, prepared.plan, self._devices.devices)
            self._prepared[model.id] = prepared
        return self._prepared[model.id]

    def prepare_subject(self, request: CertificateRequest) -> PreparedSubject:
        """Return the checked inputs of a request's edited checkpoint.

        Raises:
            ConfigurationError: something about them cannot be used.
        """
        from pytest_proofpack.engine.prepared import prepare_subject

        scenario, spec = request.scenario.id, request.subject
        assert spec is not None
        if scenario not in self._subjects:
            baseline, located = self.prepare(request.model), self._located(spec)
            with _refused(spec):
                self._subjects[scenario] = prepare_subject(located, baseline)
        return self._subjects[scenario]

    def subject_digest(self, request: CertificateRequest) -> str:
        """Return the digest of a request's edited checkpoint, whether it can be used or not.

        Raises:
            ConfigurationError: it is not there, or cannot be read.
        """
        from pytest_proofpack.models.files import CheckpointFiles

        assert request.subject is not None
        located = self._located(request.subject)
        with _refused(request.subject):
            return CheckpointFiles.of(located).digest

    def states(self, model: ModelSpec) -> dict[Path, FileState]:
        """Return the states of all files that a model's certificates depend on, from when they were read first."""
        subjects = [known.states for known in self._subjects.values()]
        return {file: state for states in (self.prepare(model).states, *subjects) for file, state in states.items()}

    def changed(self, request: CertificateRequest) -> list[Path]:
        """Return the files read for a request's model, text and edited checkpoint that are not what they were then."""
        held = (self._prepared.get(request.model.id), self._subjects.get(request.scenario.id))
        return [file for prepared in held if prepared is not None for file in changed_files(prepared.states)]

    def forget_changed(self) -> None:
        """Forget what was read from files that have changed since, so that it is read and checked anew."""
        self._prepared = {key: known for key, known in self._prepared.items() if not changed_files(known.states)}
        self._subjects = {key: known for key, known in self._subjects.items() if not changed_files(known.states)}

    def warnings(self) -> list[tuple[str, str]]:
        """Return what is odd about the files of models and of edited models, each with the model's id."""
        checked: list[Prepared | PreparedSubject] = [*self._prepared.values(), *self._subjects.values()]
        return [(one.spec.id, warning) for one in checked for warning in one.warnings]

    def digest(self, model: ModelSpec) -> str:
        """Return the digest of a model's directory."""
        from pytest_proofpack.models.files import CheckpointFiles

        return CheckpointFiles.of(self.prepare(model).spec).digest

    def has_same_values(self, request: CertificateRequest) -> bool:
        """Tell whether a request's edited checkpoint holds the values of its baseline, however it was saved."""
        from pytest_proofpack.models.files import CheckpointFiles
        from pytest_proofpack.models.same_values import hold_same_values

        specs = self.prepare(request.model).spec, self.prepare_subject(request).spec
        return hold_same_values(*(CheckpointFiles.of(spec) for spec in specs))

    def conditions(self, model: ModelSpec, *, elsewhere: bool) -> Conditions:
        """Return how certificates of a model are made in this session, whose subjects have all been prepared.

        Args:
            model: the model.
            elsewhere: whether workers of other hosts make some, on devices that are not known here.
        """
        from pytest_proofpack.engine.tool_checks import product_readings

        prepared, plan = self.prepare(model), self.plans.get(model.id)
        return Conditions(
            plan=prepared.plan,
            text=prepared.text.facts,
            tokenizer_hash=prepared.tokenizer_hash,
            device=None if elsewhere or self._devices is None else self._devices.devices[0].kind,
            batch_windows=None if plan is None else plan.batch_windows,
            libraries={name: version(name) for name in LIBRARIES},
            weights=lambda: self.digest(model),
            subjects={scenario: subject.digest for scenario, subject in self._subjects.items()},
            told={scenario: subject.label for scenario, subject in self._subjects.items()},
            readings={
                **{scenario: reading_facts(subject.spec) for scenario, subject in self._subjects.items()},
                **product_readings(self._run),
            },
            extensions=tuple(extension.to_json() for extension in self._run.extensions),
        )

    def _located(self, model: ModelSpec) -> ModelSpec:
        """Return a model with its directory on this machine: the controller knows it, a worker looks for its own."""
        from pytest_proofpack.sources.preflight import located_model

        return located_model(model, verify=not self._beside_the_controller())

    def _located_text(self) -> TextSpec:
        """Return the text with its directory on this machine."""
        from pytest_proofpack.sources.preflight import located_text

        if self._text is None:
            self._text = located_text(self._run.suite.text, verify=not self._beside_the_controller())
        return self._text

    def _beside_the_controller(self) -> bool:
        """Tell whether this worker's cache is the controller's, whose files have been compared with their commits."""
        return (self._run.out / MARKER).is_file()


@contextlib.contextmanager
def _refused(spec: ModelSpec) -> Iterator[None]:
    """Make of what libraries raise for files that are not what they should be the refusal of this one model.

    Raises:
        ConfigurationError: they raised something.
    """
    try:
        yield
    except ProofPackError:
        raise
    except _load_errors() as error:
        raise ConfigurationError(
            f"{spec.id}: no model can be made of its files ({error_line(error)}). Check its "
            "config.json, or save it again: model.save_pretrained(directory)."
        ) from error


def _load_errors() -> tuple[type[BaseException], ...]:
    """Return what is raised for such files; asked only once something was, for it takes torch to know."""
    from pytest_proofpack.models.load import LOAD_ERRORS

    return LOAD_ERRORS
