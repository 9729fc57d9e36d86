"""What a session is that makes a shard: which certificates, which models, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.repeats import repeated_request
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.sharding import sharded
from pytest_proofpack.plugin.worker_input import WorkerInput
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.sources.pinning import revisions_of
from pytest_proofpack.sources.source import sources_of
from tests.support.default_settings import DEFAULTS

ALL = [f"{number}/4" for number in range(1, 5)]


def asked(**given: Any) -> Run:
    return resolve_run(replace(DEFAULTS, **{"suite": "full", "out": "run", **given}))


def test_shards_make_every_certificate_once_and_expect_the_same_run() -> None:
    whole, parts = asked(), [sharded(asked(shard=shard)) for shard in ALL]

    made = [request.id for part in parts for request in part.requests]
    assert sorted(made) == sorted(request.id for request in whole.requests)
    assert all(part.plan.document(part.suite) == whole.plan.document(whole.suite) for part in parts)
    assert all(part.pack_dir is None for part in parts)


def test_a_shard_needs_only_the_models_of_its_own_certificates() -> None:
    for shard in ALL:
        part = sharded(asked(shard=shard))
        needed = {request.model.id for request in part.requests}

        assert len(needed) < 6
        assert {model.id for model in part.models} == needed
        assert {source.id for source in sources_of(part)} == {*needed, "Salesforce/wikitext"}
        document = revisions_of(part, {}).document()
        assert set(document["models"]) == needed
        assert len(document["model_list"]) == 6


def test_repeats_are_made_by_the_shard_of_what_is_repeated() -> None:
    parts = [sharded(asked(shard=shard, repeats=3)) for shard in ALL]
    chosen = repeated_request(asked().requests)

    assert sorted(part.settings.repeats for part in parts) == [0, 0, 0, 3]
    assert [part.settings.repeats > 0 for part in parts] == [chosen in part.requests for part in parts]


def test_a_worker_has_the_share_of_its_controller(tmp_path: Path) -> None:
    part = sharded(asked(suite="tiny", shard="2/3", out=str(tmp_path)))
    told = WorkerInput.from_text(WorkerInput.of_run(part, one_at_a_time=True).to_text())
    assert told.run(()).items == part.items


def test_more_shards_than_certificates_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"23/23: the run has 22 certificates.*fewer shards"):
        sharded(asked(suite="tiny", shard="23/23"))


def test_what_has_to_be_tuned_is_tuned_once_before(tmp_path: Path) -> None:
    tuned = tmp_path / "tuned.json"
    tuned.write_text('{"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}')
    for given in ({"mode": "tune"}, {"tune": "auto", "tuned_edit_params": str(tuned)}):
        with pytest.raises(ConfigurationError, match=r"found once.*--proofpack-tuned-edit-params"):
            sharded(asked(suite="tiny", shard="1/2", **given))


def test_with_nothing_left_to_tune_a_shard_may_be_asked_to_tune() -> None:
    tuned = asked(suite="tiny", tune="auto")
    assert tuned.untuned == ()
    assert sharded(replace(tuned, settings=replace(tuned.settings, shard="1/2"))).share


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/", "/2", "a/b", "1/2/3", "-1/2", "1/100000"])
def test_what_is_no_shard_is_refused(text: str, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--proofpack-suite=tiny", f"--proofpack-shard={text}", "--collect-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-shard: * is not understood; expected K/N*"])


def test_a_pack_is_verified_whole(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--proofpack-verify=pack", "--proofpack-shard=1/2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-verify and --proofpack-shard exclude each other*"])
