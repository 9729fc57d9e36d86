"""The pins of a run: commits by hand, from the suite or from a file, never a branch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.sources.pinning import given_pins, pinned_run, resolved_run, revisions_of
from pytest_proofpack.sources.source import Snapshot, sources_of
from tests.support.default_settings import DEFAULTS

A, B = "a" * 40, "b" * 40
MODEL, TEXTS = (Role.MODEL, "acme/small"), (Role.DATASET, "acme/texts")


def run_of(folder: Path, asked: str | None = None, revisions: object = None, **facts: Any) -> Run:
    """Return a run of one model and one data set of the hub, with the pins of a revisions file if one is given."""
    file = folder / "pins.json"
    if revisions is not None:
        file.write_text(json.dumps({"models": {}, **revisions}))  # type: ignore[dict-item]
    settings = replace(
        DEFAULTS, suite="tiny", out=str(folder / "run"), revisions=str(file) if revisions is not None else None
    )
    run = resolve_run(settings)
    text = TextSpec("hf_text", dataset="acme/texts")
    model = ModelSpec("acme/small", revision=asked, license="mit", **facts)
    requests = tuple(replace(request, model=model) for request in run.requests)
    suite = replace(run.suite, models=(model,), text=text)
    return replace(run, suite=suite, plan=replace(run.plan, requests=requests))


class TestPins:
    def test_a_hash_pins_by_hand(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, asked=A)
        assert given_pins(run, sources_of(run)) == {MODEL: Pin(A, license="mit")}

    @pytest.mark.parametrize("asked", [None, "main", "v1.0", A])
    def test_a_file_decides_what_a_branch_is(self, tmp_path: Path, asked: str | None) -> None:
        listed = {"models": {"acme/small": {"revision": A}}, "datasets": {"acme/texts": {"revision": B}}}
        run = run_of(tmp_path, asked, listed)
        assert given_pins(run, sources_of(run)) == {MODEL: Pin(A, license="mit"), TEXTS: Pin(B)}

    def test_two_commits_are_a_contradiction(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, B, {"models": {"acme/small": {"revision": A}}})
        with pytest.raises(ConfigurationError, match=f"acme/small: commit {B} is asked for, but .* has {A}. Correct"):
            given_pins(run, sources_of(run))

    def test_a_pin_of_a_local_directory_pins_nothing(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, None, {"models": {"acme/small": {"revision": None}}})
        assert given_pins(run, sources_of(run)) == {}

    def test_a_local_directory_needs_no_pin_but_may_state_its_commit(self, tmp_path: Path) -> None:
        run = run_of(tmp_path, A, path=tmp_path)
        assert [source.id for source in sources_of(run)] == ["acme/texts"]
        assert revisions_of(run, {}).document()["models"]["acme/small"]["revision"] == A
        with pytest.raises(ConfigurationError, match="a local directory has no branches"):
            sources_of(run_of(tmp_path, "main", path=tmp_path))

    def test_two_revisions_of_one_subject_are_pinned_apart(self, tmp_path: Path) -> None:
        subjects = {"x": ModelSpec("acme/small", revision="v1"), "y": ModelSpec("acme/small", revision="v2")}
        run = run_of(tmp_path)
        run = replace(run, suite=replace(run.suite, subjects=subjects))
        keys = [source.key for source in sources_of(run)]
        assert keys == [MODEL, (Role.SUBJECT, "acme/small@v1"), (Role.SUBJECT, "acme/small@v2"), TEXTS]
        found = {(Role.SUBJECT, "acme/small@v1"): Snapshot(Pin(A)), (Role.SUBJECT, "acme/small@v2"): Snapshot(Pin(B))}
        assert [model.revision for model in resolved_run(run, found).suite.subjects.values()] == [A, B]


class TestResolvedRun:
    def test_suite_and_requests_get_commit_licence_and_directory(self, tmp_path: Path) -> None:
        found = {
            MODEL: Snapshot(Pin(A, license="apache-2.0"), tmp_path / "m", ("config.json",)),
            TEXTS: Snapshot(Pin(B), tmp_path / "t"),
        }
        run = resolved_run(run_of(tmp_path, "main"), found)
        (model,) = run.suite.models
        assert (model.revision, model.license, model.path, model.files) == (
            *(A, "apache-2.0", tmp_path / "m", ("config.json",)),
        )
        assert all(request.model == model for request in run.requests)
        assert (run.suite.text.revision, run.suite.text.path) == (B, tmp_path / "t")

    def test_a_worker_gets_commits_but_no_directories(self, tmp_path: Path) -> None:
        revisions = Revisions("s", "", ("acme/small",), {MODEL: Pin(A, license="mit"), TEXTS: Pin(B)})
        run = pinned_run(run_of(tmp_path, "main"), Revisions.from_document(revisions.document()))
        assert {(request.model.revision, request.model.path) for request in run.requests} == {(A, None)}
        assert (run.suite.text.revision, run.suite.text.path) == (B, None)
