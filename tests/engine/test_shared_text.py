"""Workers take over the windows that the controller has cut, and load the text only if theirs would be others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_proofpack.engine import shared_text
from pytest_proofpack.engine.prepared import Prepared, prepare_model
from pytest_proofpack.engine.shared_text import forget_texts, share_text
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.runs.paths import TEXTS
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.text.documents import load_documents
from pytest_proofpack.text.synthetic import generate
from tests.support.default_settings import DEFAULTS
from tests.support.model_files import build_model_directory


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Prepared]:
    """Return a run on a text file of the user's, and what its controller has prepared."""
    folder = tmp_path_factory.mktemp("given")
    text, model = folder / "text.txt", build_model_directory(folder / "model")
    text.write_text("\n\n".join(document.text for document in generate(3, 700)))
    run = resolve_run(replace(DEFAULTS, suite="tiny", model=(str(model),), text=str(text), no_pack=True, out="unused"))
    run = replace(run, suite=replace(run.suite, windows=replace(run.suite.windows, seq_len=32)))
    return run, prepare_model(run, run.suite.models[0])


@pytest.fixture
def run(given: tuple[Run, Prepared], tmp_path: Path) -> Run:
    """Return that run in a directory of its own, where its windows are shared."""
    run = replace(given[0], out=tmp_path)
    (tmp_path / TEXTS).parent.mkdir()
    share_text(run, given[1])
    return run


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that gets longer whenever a text is loaded."""
    loaded: list[object] = []

    def load(spec: TextSpec) -> list[str]:
        loaded.append(spec)
        return load_documents(spec)

    monkeypatch.setattr("pytest_proofpack.text.windows.load_documents", load)
    return loaded


def prepare(run: Run) -> Prepared:
    return prepare_model(run, run.suite.models[0])


def test_what_the_controller_has_cut_is_taken_over(run: Run, given: tuple[Run, Prepared], loads: list[object]) -> None:
    prepared, theirs = prepare(run), given[1]
    assert not loads
    assert np.array_equal(prepared.text.windows, theirs.text.windows)
    assert (prepared.text.facts, prepared.plan) == (theirs.text.facts, theirs.plan)
    assert (prepared.tokenizer_hash, prepared.states) == (theirs.tokenizer_hash, theirs.states)


def test_tuning_draws_its_own_windows_of_them(run: Run, loads: list[object]) -> None:
    tuning = replace(run, settings=replace(run.settings, mode="tune"))
    shared = prepare(tuning)
    assert not loads
    forget_texts(run)
    own = prepare(tuning)
    assert len(loads) == 1
    assert np.array_equal(own.text.draw(0).preview, shared.text.draw(0).preview)
    assert own.plan == shared.plan


def other_text(run: Run) -> Run:
    text = run.out / "text.txt"
    assert run.suite.text.path is not None
    shutil.copy(run.suite.text.path, text)
    return replace(run, suite=replace(run.suite, text=replace(run.suite.text, path=text)))


def other_windows(run: Run) -> Run:
    return replace(run, suite=replace(run.suite, windows=replace(run.suite.windows, seq_len=16)))


def damaged(run: Run) -> Run:
    (file,) = (run.out / TEXTS).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    return run


def gone(run: Run) -> Run:
    forget_texts(run)
    assert not (run.out / TEXTS).exists()
    return run


@pytest.mark.parametrize("change", [other_text, other_windows, damaged, gone])
def test_whatever_differs_the_text_is_loaded(run: Run, loads: list[object], change: Callable[[Run], Run]) -> None:
    changed = change(run)
    prepare(changed)
    assert len(loads) == 1


def test_a_text_that_was_written_to_is_loaded_again(run: Run, loads: list[object]) -> None:
    own = other_text(run)
    share_text(own, prepare(own))
    prepare(own)
    assert len(loads) == 1
    os.utime(run.out / "text.txt")
    prepare(own)
    assert len(loads) == 2


def test_nobody_else_can_read_it_and_it_is_left_out_where_there_is_no_room(
    run: Run, given: tuple[Run, Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (run.out / TEXTS).stat().st_mode & 0o777 == 0o700
    forget_texts(run)
    monkeypatch.setattr(shared_text, "has_room_beside", lambda _run, size: size < given[1].text.windows.nbytes)
    share_text(run, given[1])
    assert not (run.out / TEXTS).exists()


def test_without_a_place_for_it_nothing_is_shared(run: Run, given: tuple[Run, Prepared], loads: list[object]) -> None:
    forget_texts(run)
    (run.out / TEXTS).touch()
    share_text(run, given[1])
    prepare(run)
    assert len(loads) == 1
