"""What directories say that they are part of: one run, made of what each of them knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.check_structure import subject_findings
from pytest_proofpack.plan.pins import Role
from pytest_proofpack.plan.records import SubjectEdit
from pytest_proofpack.plan.scenarios import subject_entry
from pytest_proofpack.runs.shards import Part, missing_shards, one_run, read_part
from tests.support.forgery import change_document
from tests.support.shard_runs import make_shards

COMMITS = {"a": "a" * 40, "b": "b" * 40}


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return make_shards(tmp_path, 2)


def rewrite(directory: Path, name: str, **values: Any) -> None:
    change_document(directory / f"state/{name}.json", lambda document: document.update(values))


def parts_of(shards: list[Path]) -> list[Part]:
    return [read_part(shard) for shard in shards]


def pin(commit: str | None, at: str) -> JsonObject:
    return {"revision": commit, "resolved_at": at, "gated": False, "private": False, "license": "mit"}


def test_what_only_one_of_them_has_pinned_is_pinned(shards: list[Path]) -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    rewrite(shards[0], "model_revisions", generated_at=late, models={"m": pin(COMMITS["a"], late)})
    both = {"m": pin(COMMITS["a"], early), "n": pin(COMMITS["b"], early)}
    rewrite(shards[1], "model_revisions", generated_at=early, models=both)
    revisions = one_run(parts_of(shards)).revisions

    assert revisions.generated_at == early
    assert {key: known.revision for (_, key), known in revisions.pins.items()} == {"m": COMMITS["a"], "n": COMMITS["b"]}
    assert revisions.pins[Role.MODEL, "m"].resolved_at == early  # by whom it was learned first


def test_two_commits_of_one_source_are_named(shards: list[Path]) -> None:
    for shard, commit in zip(shards, COMMITS.values(), strict=True):
        rewrite(shard, "model_revisions", models={"m": pin(commit, "2026-01-01T00:00:00Z")})
    with pytest.raises(ConfigurationError, match=r"are not of one run: commits.models.m is \"a{40}\" in the one"):
        one_run(parts_of(shards))


def subjects(*digests: str | None) -> list[JsonObject]:
    names = [f"acme/edited-{number}" for number in range(len(digests))]
    return [
        subject_entry(f"edited-{number}", SubjectEdit("custom", "default", name, None, digest))
        for number, (name, digest) in enumerate(zip(names, digests, strict=True))
    ]


def test_edited_models_are_as_the_shard_says_that_has_read_them(shards: list[Path]) -> None:
    rewrite(shards[0], "scenarios", scenarios=subjects("a" * 64, None))
    rewrite(shards[1], "scenarios", scenarios=subjects(None, "b" * 64))
    assert one_run(parts_of(shards)).scenarios["scenarios"] == subjects("a" * 64, "b" * 64)


def test_a_pack_with_an_edited_model_that_nobody_has_read_is_refused() -> None:
    assert subject_findings({"scenarios": subjects("a" * 64)}, "scenarios.json") == []
    found = subject_findings({"scenarios": subjects("a" * 64, None)}, "scenarios.json")
    assert found == ["scenarios.json: the edited model of 'edited-1' has no digest"]


def test_an_edited_model_that_two_have_read_differently_is_named(shards: list[Path]) -> None:
    rewrite(shards[0], "scenarios", scenarios=subjects("a" * 64))
    rewrite(shards[1], "scenarios", scenarios=subjects("b" * 64))
    with pytest.raises(ConfigurationError, match=r"scenarios.scenarios\[0\].generation.digest"):
        one_run(parts_of(shards))


def test_it_began_with_the_first_and_was_online_if_one_was(shards: list[Path]) -> None:
    rewrite(shards[1], "run", started_at="2026-01-01T00:00:00Z", network_mode="online", measured_under={"m": "a" * 64})
    session = one_run(parts_of(shards)).session
    assert (session["started_at"], session["network_mode"]) == ("2026-01-01T00:00:00Z", "online")
    assert session["measured_under"] == {"m": "a" * 64}
    assert "shard" not in session


@pytest.mark.parametrize("name", ["run", "scenarios", "tuned_edit_params", "model_revisions"])
def test_a_directory_without_its_state_is_none(shards: list[Path], name: str) -> None:
    (shards[0] / f"state/{name}.json").unlink()
    with pytest.raises(ConfigurationError, match=f"state/{name}.json is missing, so it is no run directory"):
        read_part(shards[0])


def test_state_is_not_read_through_a_link_or_a_device(shards: list[Path]) -> None:
    for target in ("/dev/zero", shards[1] / "state/run.json"):
        (shards[0] / "state/run.json").unlink()
        (shards[0] / "state/run.json").symlink_to(target)
        with pytest.raises(ConfigurationError, match=r"state/run\.json is missing"):
            read_part(shards[0])


def test_what_does_not_fit_is_told_with_its_directory(shards: list[Path]) -> None:
    rewrite(shards[0], "run", started_at=5)
    with pytest.raises(ConfigurationError, match=f"{shards[0]}: state/run.json"):
        read_part(shards[0])
    document = json.loads((shards[1] / "state/scenarios.json").read_text())["plan"]
    many = {"runs": {**document["runs"], "clean": 1000}, "models": [f"m-{number}" for number in range(100)]}
    rewrite(shards[1], "scenarios", plan={**document, **many})
    with pytest.raises(ConfigurationError, match="plans more than 20000 certificates"):
        read_part(shards[1])


def test_which_shards_are_missing_is_known_if_all_are_of_one_division(shards: list[Path]) -> None:
    one, two = parts_of(shards)
    assert missing_shards([one, two]) is None
    assert missing_shards([two]) == "1/2"
    rewrite(shards[1], "run", shard="2/3")
    assert missing_shards(parts_of(shards)) is None
