"""Whose scenarios a suite has: a name says nothing of it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pytest_proofpack import __version__
from pytest_proofpack.common.strict_json import sha256_of
from pytest_proofpack.plan.packaged import packaged_digest, provenance, scenarios_digest
from pytest_proofpack.plan.suites import EMBEDDED, load_suite, plan_certificates

STORED = sorted((Path(__file__).parents[1] / "packs").glob("*.tar.xz"))


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_packaged_suites_have_the_packaged_scenarios(name: str) -> None:
    suite = load_suite(name)
    assert sha256_of(suite.scenarios) == packaged_digest(name)
    digest = scenarios_digest(plan_certificates(suite).document(suite))
    assert provenance(name, digest) == f"the packaged ones of version {__version__}"


@pytest.mark.parametrize("archive", STORED, ids=lambda archive: archive.name)
def test_the_scenarios_of_every_release_are_known(archive: Path) -> None:
    with tarfile.open(archive) as stored:
        file = stored.extractfile("proof_pack/state/scenarios.json")
        assert file is not None
        digest = scenarios_digest(json.load(file))
    version = archive.name.split("-")[1]
    assert provenance("tiny", digest) == f"the packaged ones of version {version}"


def test_other_scenarios_are_said_to_be_others() -> None:
    suite = load_suite("tiny")
    suite.scenarios["scenarios"].pop()
    digest = sha256_of(suite.scenarios)
    assert provenance("tiny", digest) == "NOT the packaged ones of tiny"
    assert provenance("mine", digest) == "not the packaged ones"
    assert provenance("mine", digest, ["clean", "byoe"]) == "not the packaged ones"


def test_nobody_packages_checkpoints_that_are_edited_elsewhere() -> None:
    assert provenance("byoe", "0" * 64, ["byoe", "byoe"]) == "the checkpoints edited elsewhere"
    assert provenance("tiny", "0" * 64, ["byoe"]) == "NOT the packaged ones of tiny"


def test_the_scenarios_of_a_smaller_suite_are_not_those_of_the_others() -> None:
    digest = sha256_of(load_suite("smollm2").scenarios)
    assert provenance("full", digest) == "NOT the packaged ones of full"
    assert provenance("smollm2", packaged_digest()) == "NOT the packaged ones of smollm2"
