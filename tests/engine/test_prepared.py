"""What is told of a subject before any weight is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_proofpack.engine import prepared
from pytest_proofpack.engine.inputs import CheckedInputs
from pytest_proofpack.engine.prepared import Prepared, PreparedSubject, prepare_model, prepare_subject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run
from tests.support.adapters import save_adapter
from tests.support.subject_runs import subject_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("prepared")
    save_adapter(folder / "adapter", r=4, target_modules=["q_proj"])
    return subject_run(folder, "adapter")


@pytest.fixture(scope="module")
def baseline(run: Run) -> Prepared:
    return CheckedInputs(run).prepare(run.suite.models[0])


def prepare(directory: Path, baseline: Prepared) -> PreparedSubject:
    return prepare_subject(ModelSpec(directory.name, path=directory), baseline)


class TestAdapter:
    def test_its_files_tell_label_and_facts(self, run: Run, baseline: Prepared) -> None:
        (subject,) = run.suite.subjects.values()
        prepared = prepare_subject(subject, baseline)
        assert (prepared.label, prepared.warnings, prepared.tokenizer_hash) == ("lora", (), None)
        assert prepared.addition is not None
        assert prepared.addition["targets"] == ["q_proj"]

    def test_it_is_no_baseline(self, run: Run) -> None:
        (subject,) = run.suite.subjects.values()
        with pytest.raises(ConfigurationError, match=r"is no model but what is added to one \(adapter\)"):
            prepare_model(run, subject)

    def test_without_the_package(self, run: Run, baseline: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
        (subject,) = run.suite.subjects.values()
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(ConfigurationError, match=r'Install it \(pip install "pytest-proofpack\[peft\]"\)'):
            prepare_subject(subject, baseline)


def test_whatever_a_library_raises_for_its_files_is_its_own_refusal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("'dict' object has no attribute 'vocab_size'")

    inputs, (request,) = CheckedInputs(run), [request for request in run.requests if request.subject is not None]
    monkeypatch.setattr(prepared, "prepare_subject", fail)
    with pytest.raises(ConfigurationError, match=r"no model can be made of its files \(AttributeError: 'dict' object"):
        inputs.prepare_subject(request)
