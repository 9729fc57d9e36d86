"""Revisions documents, and what they pin in a run: commits by hand, from the suite or from a file, never a branch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.environment import OFFLINE, go_offline, restore_environment
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role, is_commit, read_revisions
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.sources.expected_sizes import plan_lines
from pytest_proofpack.sources.pinning import (
    Found,
    data_size,
    given_pins,
    pinned_run,
    refuse,
    resolved_run,
    revisions_of,
    sources_of,
)
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


class TestDocument:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        pins = {
            MODEL: Pin(A, "2026-01-31T12:00:00Z", gated=True, private=False, license="mit"),
            (Role.MODEL, "local"): Pin(None),
            TEXTS: Pin(B),
        }
        revisions = Revisions("s", "2026-01-31T12:00:00Z", ("acme/small", "local"), pins)
        document = revisions.document()
        assert schema_findings("model_revisions", document) == []
        assert document["models"]["acme/small"] == {
            "revision": A,
            "resolved_at": "2026-01-31T12:00:00Z",
            "gated": True,
            "private": False,
            "license": "mit",
        }
        assert "subjects" not in document
        (tmp_path / "r.json").write_text(json.dumps(document))
        assert read_revisions(tmp_path / "r.json") == revisions == Revisions.from_document(revisions.document())

    def test_other_tools_may_add_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text(json.dumps({"models": {"m": {"revision": A, "size": 3}}, "tool": "t"}))
        assert read_revisions(tmp_path / "r.json").pins == {(Role.MODEL, "m"): Pin(A)}

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("[]", "expected a JSON object"),
            ("{", "not valid JSON"),
            ("{}", "'models' is a required property"),
            ('{"models": {"m": {}}}', "models.m: 'revision' is a required property"),
            ('{"models": {"m": {"revision": "main"}}}', "models.m.revision: 'main' does not match"),
            (f'{{"models": {{"m": {{"revision": "{A.upper()}"}}}}}}', "does not match"),
            (f'{{"models": {{"m": {{"revision": "{A}\\n"}}}}}}', "is too long"),
            ('{"models": {"m": {"revision": "' + "a" * 39 + '"}}}', "does not match"),
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, content: str, expected: str) -> None:
        (tmp_path / "r.json").write_text(content)
        with pytest.raises(ConfigurationError, match=expected) as caught:
            read_revisions(tmp_path / "r.json")
        assert "--proofpack-revisions" in str(caught.value)
        assert "r.json" in str(caught.value)

    @pytest.mark.parametrize("text", [None, "main", A[:39], A.upper(), A + "\n", "g" * 40])
    def test_only_full_hashes_are_commits(self, text: str | None) -> None:
        assert is_commit(A)
        assert not is_commit(text)


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
        places = [source.place for source in sources_of(run)]
        assert places == [MODEL, (Role.SUBJECT, "acme/small@v1"), (Role.SUBJECT, "acme/small@v2"), TEXTS]
        found = {(Role.SUBJECT, "acme/small@v1"): Found(Pin(A)), (Role.SUBJECT, "acme/small@v2"): Found(Pin(B))}
        assert [model.revision for model in resolved_run(run, found).suite.subjects.values()] == [A, B]


class TestResolvedRun:
    def test_suite_and_requests_get_commit_licence_and_directory(self, tmp_path: Path) -> None:
        found = {
            MODEL: Found(Pin(A, license="apache-2.0"), tmp_path / "m", ("config.json",)),
            TEXTS: Found(Pin(B), tmp_path / "t"),
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


def test_problems_are_one_error() -> None:
    refuse([], "Nothing happens.")
    with pytest.raises(ConfigurationError, match=r"^one\. Do this\.$"):
        refuse(["one"], "Do this.")
    with pytest.raises(ConfigurationError, match=r"^2 things are in the way:\n  one\n  two\nDo this\.$"):
        refuse(["one", "two"], "Do this.")


class TestPlan:
    def test_of_the_full_suite(self, tmp_path: Path) -> None:
        lines = plan_lines(
            resolve_run(replace(DEFAULTS, suite="full", out=str(tmp_path))),
            lambda model: "2 devices" if "Yi" in model.id else None,
        )
        assert lines[0] == ("mistralai/Mistral-7B-v0.1: 7,241,732,096 parameters, about 14.5 GB to download in 16 bits")
        assert lines[3].startswith("01-ai/Yi-34B: 34,388,917,248 parameters, ")
        assert lines[3].endswith(", 2 devices")
        assert lines[6] == "data set Salesforce/wikitext: wikitext-2-raw-v1, validation: not in the cache"
        assert lines[7].startswith("to download in all: about 416 GB; ")

    def test_of_a_local_model(self, tmp_path: Path) -> None:
        (line,) = plan_lines(resolve_run(replace(DEFAULTS, suite="tiny", out=str(tmp_path))))
        assert line == "proofpack/tiny: 1,013,120 parameters, 4.06 MB on disk"

    def test_of_models_nobody_knows(self, tmp_path: Path) -> None:
        lines = plan_lines(run_of(tmp_path))
        assert lines[0] == "acme/small: parameters unknown, not in the cache"
        assert "without the 1 of unknown size" in lines[-1]


def test_sizes_for_people() -> None:
    assert [data_size(size) for size in (0, 999, 1000, 14_483_464_192, 3e15)] == [
        *("0 bytes", "999 bytes", "1 kB", "14.5 GB", "3e+03 TB"),
    ]


def test_offline_reaches_libraries_that_are_loaded_and_those_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    before = go_offline()
    from huggingface_hub import is_offline_mode

    assert is_offline_mode()
    show = "from huggingface_hub import constants as c; print(c.HF_HUB_OFFLINE, c.HF_HUB_DISABLE_TELEMETRY)"
    child = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["True", "True"]
    restore_environment(before)
    assert not OFFLINE.keys() & os.environ.keys()
