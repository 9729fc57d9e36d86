"""The baseline's own quality: held against a model that only counts tokens, from evidence that a stranger can check."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.policy import looser_than_tier, resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.baseline_quality import baseline_evidence, derive_baseline_quality
from pytest_proofpack.guards.guard import Case, EvaluatedWindows
from pytest_proofpack.guards.overhead import overhead_evidence
from pytest_proofpack.plan.records import WindowSample
from pytest_proofpack.report import certificate_html
from tests.support.certificates import make_evidence, make_plan

RULES = resolve_policy("balanced").section("baseline_quality")
TOKENS = np.array([[9, 1, 1, 2, 3], [9, 1, 2, 5, 5], [1, 1, 1, 1, 1]])
TEXT = {"total_tokens": 300, "total_bytes": 900}


def case(loss: float, *, vocabulary: int = 64) -> Case:
    """Return the case of three windows of four scored tokens on which the baseline loses ``loss`` nats a token."""
    windows = EvaluatedWindows(["a", "b", "c"], [4] * 3, [0.0] * 3, [loss - 0.5, loss, loss + 0.5])
    sizes = {"config": vocabulary + 8, "tokenizer": vocabulary}
    return Case(windows, windows, text=TEXT, vocabulary=sizes)


def judged(loss: float, *, vocabulary: int = 64) -> JsonObject:
    return derive_baseline_quality(baseline_evidence(TOKENS), RULES, case(loss, vocabulary=vocabulary))


def certificate(nats: float) -> JsonObject:
    """Return an unedited model's certificate with all losses raised, so that every ratio stays 1."""
    request = next(r for r in make_plan()[1].requests if r.scenario.id == "calibration")
    evidence = make_evidence(request)
    sides = [evidence.baseline.preview, evidence.baseline.final]
    sample = WindowSample(*(replace(side, losses=tuple(loss + nats for loss in side.losses)) for side in sides))
    guards = {**evidence.guards, "guard_overhead": overhead_evidence(sample.preview.losses[:2])}
    return build_certificate(replace(evidence, baseline=sample, subject=sample, guards=guards))


def test_evidence_counts_how_often_scored_tokens_occur() -> None:
    counts = Counter(TOKENS[:, 1:].ravel().tolist())
    how_many = Counter(counts.values())
    often = sorted(how_many)
    assert baseline_evidence(TOKENS) == {"occurrences": often, "tokens": [how_many[number] for number in often]}


def test_the_numbers_are_those_of_their_definitions() -> None:
    found = judged(2.0)
    counts = np.array(list(Counter(TOKENS[:, 1:].ravel().tolist()).values()))
    shares = counts / counts.sum()
    assert found["perplexity"] == pytest.approx(math.exp(2.0))
    assert found["unigram_perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert found["bits_per_byte"] == pytest.approx(2.0 / math.log(2) / 3)  # three bytes a token
    assert found["vocabulary"] == 64


class TestGate:
    @pytest.mark.parametrize(
        ("share", "acceptable", "weak"), [(0.49, True, False), (0.51, True, True), (1.01, False, True)]
    )
    def test_against_counting_tokens(self, share: float, acceptable: bool, weak: bool) -> None:
        unigram = judged(1.0)["unigram_perplexity"]
        found = judged(math.log(share * unigram))
        assert (found["acceptable"], found["weak"]) == (acceptable, weak)

    @pytest.mark.parametrize(("vocabulary", "acceptable"), [(5, False), (6, True)])
    def test_against_the_vocabulary(self, vocabulary: int, acceptable: bool) -> None:
        loss = math.log(2.7)
        assert judged(loss)["acceptable"]
        assert judged(loss, vocabulary=vocabulary)["acceptable"] is acceptable

    def test_an_unedited_model_of_no_use_does_not_pass(self) -> None:
        """Its ratio is exactly 1, and every other gate holds."""
        document = certificate(1.5)
        assert document["primary_metric"]["ratio_vs_baseline"] == 1.0
        assert document["outcome"]["failed_gates"] == ["baseline_acceptable"]
        assert document["outcome"]["signals"] == []  # no way of seeing an edit
        assert check_certificate(document) == []

    def test_a_weak_one_warns_on_certificate_and_page(self) -> None:
        document = certificate(0.35)
        assert document["outcome"]["passed"]
        assert document["outcome"]["warnings"] == ["baseline_quality"]
        assert "The baseline itself hardly predicts this text" in certificate_html(document)

    def test_every_page_shows_bits_per_byte(self) -> None:
        document = certificate(0.0)
        assert f"{document['baseline_quality']['bits_per_byte']:.4g} bits per byte" in certificate_html(document)
        assert "hardly predicts" not in certificate_html(document)

    @pytest.mark.parametrize("key", sorted(RULES))
    def test_no_policy_may_be_looser(self, key: str) -> None:
        policy = copy.deepcopy(resolve_policy("balanced").thresholds)
        policy["baseline_quality"][key] *= 0.9
        assert looser_than_tier("balanced", policy) == []
        policy["baseline_quality"][key] *= 2
        assert looser_than_tier("balanced", policy) != []


class TestForged:
    @pytest.mark.parametrize(
        "evidence",
        [
            {"occurrences": [1, 2, 6], "tokens": [1, 2, 2]},
            {"occurrences": [6, 2, 1], "tokens": [1, 2, 2]},
            {"occurrences": [1, 11], "tokens": [1]},
            {"occurrences": [], "tokens": []},
            {"occurrences": [1.0, 11], "tokens": [1, 1]},
            {"occurrences": [0, 12], "tokens": [1, 1]},
            {"occurrences": [True, 11], "tokens": [1, 1]},
            {"tokens": [12]},
        ],
    )
    def test_evidence_that_is_none(self, evidence: dict[str, Any]) -> None:
        with pytest.raises(FormatError, match="baseline_quality"):
            derive_baseline_quality(evidence, RULES, case(1.0))

    def test_more_tokens_than_the_vocabulary_has(self) -> None:
        with pytest.raises(FormatError, match="vocabulary"):
            derive_baseline_quality({"occurrences": [1], "tokens": [12]}, RULES, case(1.0, vocabulary=11))

    def test_a_verifier_recomputes_it(self) -> None:
        document = certificate(1.5)
        document["baseline_quality"]["unigram_perplexity"] = 1e6
        document["baseline_quality"]["acceptable"] = True
        findings = check_certificate(finish_certificate(document))
        assert any(finding.startswith("baseline_quality.unigram_perplexity") for finding in findings)
        assert any(finding.startswith("baseline_quality.acceptable") for finding in findings)
