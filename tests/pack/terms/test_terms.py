"""Demands compared with facts that packs seldom have; what they usually have is in tests/commands/test_demands.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pytest_proofpack import ConfigurationError, verify
from pytest_proofpack.common.model_directory import directory_digest
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.policy import state
from pytest_proofpack.pack.terms import TERMS, Judgement, Term
from pytest_proofpack.pack.verified import ModelIdentity, TextIdentity, Verified
from pytest_proofpack.pack.verify import verify_pack

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = TextIdentity("hf_text", "test", "d" * 64, "acme/text", COMMIT)


@pytest.fixture(scope="session")
def facts(unsigned_original: Path) -> Verified:
    found = verify_pack(unsigned_original).facts
    assert found is not None
    return found


def judged(name: str, text: str, facts: Verified) -> Judgement:
    term = TERMS[name]
    assert term.judge is not None
    return term.judge(term.read(text), facts)


def test_a_subject_and_a_baseline_in_ones_hand(facts: Verified, tmp_path: Path) -> None:
    for name in ("before", "after", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(name)
    before, after = (directory_digest(tmp_path / name) for name in ("before", "after"))
    byoe = replace(
        facts,
        models=(ModelIdentity("acme/before", COMMIT, (before,)),),
        subjects=(ModelIdentity("noop", None, (before,)), ModelIdentity("after", None, (after,))),
    )
    met = judged("subject", str(tmp_path / "after"), byoe)
    assert met == Judgement(True, f"its files are those of after, a local directory, files {after}")
    assert judged("baseline", str(tmp_path / "before"), byoe).met
    assert not judged("baseline", str(tmp_path / "after"), byoe).met
    unmet = judged("subject", str(tmp_path / "other"), byoe)
    assert not unmet.met
    assert directory_digest(tmp_path / "other") in unmet.why
    (tmp_path / "after/model.sig").write_text("a signature is no part of the model")
    assert judged("subject", str(tmp_path / "after"), byoe).met
    (tmp_path / "after/extra.py").write_text("")
    assert not judged("subject", str(tmp_path / "after"), byoe).met


def test_certificates_that_disagree_on_a_models_files_meet_nothing(facts: Verified, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    digest = directory_digest(tmp_path)
    two = replace(facts, models=(ModelIdentity("a", None, (digest, "e" * 64)),))
    assert not judged("baseline", str(tmp_path), two).met
    assert not judged("expect-model", f"a@{digest}", two).met


def test_a_directory_that_cannot_be_read(facts: Verified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path / "weights"))

    monkeypatch.setattr("pytest_proofpack.pack.terms.directories.directory_digest", refuse)
    with pytest.raises(ConfigurationError, match=r"weights: cannot be read \(Permission denied\)"):
        judged("baseline", str(tmp_path), facts)


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("acme/model", True),
        (f"acme/model@{COMMIT}", True),
        ("acme/model@main", False),
        ("acme/model@" + COMMIT[:12], False),
        ("acme/edited", True),
        (f"acme/edited@{'e' * 64}", True),
        ("acme/edited@" + "c" * 64, False),
        ("acme/mode", False),
        ("E" * 64, True),
        ("f" * 64, False),
        ("b" * 64, False),
        ("acme/word@" + "b" * 64, False),
    ],
)
def test_a_model_is_a_baseline_or_a_subject(facts: Verified, wanted: str, met: bool) -> None:
    byoe = replace(
        facts,
        models=(ModelIdentity("acme/model", COMMIT, ("c" * 64,)),),
        subjects=(
            ModelIdentity("acme/edited", None, ("e" * 64,)),
            ModelIdentity("acme/word", "b" * 64, ("9" * 64,)),
            ModelIdentity("f" * 64, None, ("9" * 64,)),
        ),
    )
    assert judged("expect-model", wanted, byoe).met is met


@pytest.mark.parametrize(
    ("tiers", "least", "met"),
    [
        (("conservative",), "balanced", True),
        (("aggressive", "conservative"), "balanced", False),
        (("of-ones-own",), "aggressive", False),
    ],
)
def test_every_tier_is_strict_enough(facts: Verified, tiers: tuple[str, ...], least: str, met: bool) -> None:
    assert judged("min-tier", least, replace(facts, tiers=tiers)).met is met


@pytest.mark.parametrize(
    ("wanted", "met"),
    [
        ("acme/text", True),
        (f"acme/text@{COMMIT}", True),
        ("acme/text@main", False),
        ("d" * 64, True),
        ("hf_text", True),
        ("acme/text@None", False),
        ("D" * 64, True),
        ("acme/text@" + "d" * 64, True),
        ("acme/other@" + "d" * 64, False),
    ],
)
def test_a_text_from_the_hub(facts: Verified, wanted: str, met: bool) -> None:
    assert judged("expect-text", wanted, replace(facts, texts=(TEXT,))).met is met


def test_a_digest_is_compared_with_digests_only(facts: Verified) -> None:
    digest = "5" * 64
    for text in (
        TextIdentity(digest, "test", "d" * 64, None, None),
        TextIdentity("hf_text", "test", "d" * 64, digest, COMMIT),
        TextIdentity("hf_text", "test", "d" * 64, "acme/text", digest),
    ):
        called = replace(facts, texts=(text,))
        assert not judged("expect-text", digest, called).met
        assert not judged("expect-text", f"{text.dataset}@{digest}", called).met


def test_all_certificates_are_of_the_text(facts: Verified) -> None:
    assert not judged("expect-text", "acme/text", replace(facts, texts=(TEXT, *facts.texts))).met
    assert not judged("expect-text", "acme/text", replace(facts, texts=())).met


def test_the_earliest_time_counts(facts: Verified) -> None:
    now = datetime.now(UTC)
    both = replace(facts, times={"made": now - timedelta(days=3), "signed": now})
    assert judged("max-age", "4d", both).met
    assert not judged("max-age", "2d", both).met
    assert not judged("not-before", f"{now - timedelta(days=1):%Y-%m-%d}", both).met


def test_a_pack_from_the_future_is_not_new(facts: Verified) -> None:
    now = datetime.now(UTC)
    assert judged("max-age", "1h", replace(facts, times={"made": now + timedelta(minutes=5)})).met
    late = judged("max-age", "1h", replace(facts, times={"made": now + timedelta(days=1)}))
    assert not late.met
    assert late.why.endswith(", which is in the future")


@pytest.mark.parametrize("name", ["max-age", "not-before"])
def test_without_a_time_nothing_is_known_of_it(facts: Verified, name: str) -> None:
    wanted = {"max-age": "9999w", "not-before": "2000-01-01"}[name]
    assert judged(name, wanted, replace(facts, times={})) == Judgement(False, "when it was made cannot be read")


def test_a_suite_with_edits_left_out(facts: Verified) -> None:
    less = replace(facts, suite="tiny", runs={**facts.runs, "clean": 2}, skipped=("a: lowrank",))
    assert judged("expect-suite", "tiny:own-parameters", less) == Judgement(False, "1 edits were left out: a: lowrank")


class TestFromPython:
    def test_demands_as_in_a_policy_file(self, unsigned: Path) -> None:
        report = verify(unsigned, demands={"require-verdict": "PASS", "expect-model": ["acme/Tiny-1M", "b"]})
        assert (report.ok, report.accepted) == (True, False)
        assert [(result.demand, result.met) for result in report.demands] == [
            ("require-verdict=PASS", True),
            ("expect-model=acme/Tiny-1M", True),
            ("expect-model=b", False),
        ]
        assert report.unmet == report.demands[2:]
        assert verify(unsigned).accepted

    @pytest.mark.parametrize(
        ("demands", "message"),
        [
            ({"require_verdict": "PASS"}, "the demand 'require_verdict' is unknown"),
            ({"require-verdict": ["PASS"]}, "demands: require-verdict: expected a text"),
            ({"require-signature": "yes"}, "demands: require-signature: expected True or False"),
            ({"expect-model": 1}, "demands: expect-model: expected texts"),
        ],
    )
    def test_what_is_no_demand(self, unsigned: Path, demands: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            verify(unsigned, demands=demands)

    def test_demands_on_the_signature_are_heeded_before_anything_is_parsed(self, unsigned: Path) -> None:
        report = verify(unsigned, demands={"require-signature": True})
        assert [step.step for step in report.steps if step.status == "failed"] == ["signature"]
        assert Demands(stated=state({"trusted-key": "a" * 40})).trusted_keys == ("A" * 40,)

    def test_what_a_demand_is_told_is_printable(self, unsigned: Path) -> None:
        report = verify(unsigned, demands={"expect-text": "\x1b[2J" + "x" * 10_000})
        assert report.demands[0].demand.isprintable()
        assert len(report.demands[0].demand) < 1000


def test_a_new_demand_is_one_record(unsigned: Path) -> None:
    few = Term(
        "max-certificates",
        "demand few",
        "N",
        int,
        lambda most, facts: Judgement(sum(facts.counts.values()) <= most, ""),
    )
    TERMS.register(few)
    try:
        assert not verify(unsigned, demands={"max-certificates": "3"}).accepted
        with pytest.raises(ConfigurationError, match="max-certificates=three"):
            verify(unsigned, demands={"max-certificates": "three"})
    finally:
        TERMS.unregister(few.name)
