"""Policy tiers: a digest that anyone can recompute, and no threshold that can be loosened unnoticed."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import pytest
import rfc8785

from pytest_proofpack.certificate.policy import looser_than_tier, policy_digest, resolve_policy
from pytest_proofpack.config.options import PROFILES, TIERS
from pytest_proofpack.errors import ConfigurationError
from tests.support.mutations import Path, at, dotted, leaves, removed, replaced

BALANCED = resolve_policy("balanced").thresholds
LEAVES = list(leaves(BALANCED))
MAY_BE_LOWER = {
    "primary_metric.ratio_limit", "primary_metric.hysteresis", "primary_metric_tail.quantile_max", "drift.max",
    "distribution.kl_mean_warn", "distribution.kl_mean_fail", "spectral.sigma_ratio_max", "spectral.max_caps",
    "variance.ratio_max", "variance.median_log_ratio_max", "direction.lost_share_max",
    "baseline_quality.unigram_ratio_max", "baseline_quality.unigram_ratio_warn",
    "baseline_quality.vocabulary_share_max", "answers.left_out_max",
}  # fmt: skip
MAY_BE_HIGHER = {
    "primary_metric.min_tokens", "primary_metric.min_final_share", "primary_metric.min_final_windows",
    "primary_metric.replicates", "drift.min", "spectral.stable_rank_ratio_min", "spectral.row_ratio_min",
    "direction.response_min", "answers.answer_min",
}  # fmt: skip


def changes(value: object) -> list[object]:
    """List values that are another threshold than ``value``."""
    if isinstance(value, str):
        return ["other", "", 1]
    assert isinstance(value, int | float)
    return [value + 1, value - 1, value * 1.01, str(value), None, True, [value], {}]


def loosened(name: str, value: object) -> list[object]:
    """List changes that make a threshold looser, or something that is no threshold."""
    return [
        changed
        for changed in changes(value)
        if (changed, type(changed)) != (value, type(value))
        if isinstance(changed, bool)
        or not isinstance(changed, int | float)
        or not isinstance(value, int | float)
        or not ((name in MAY_BE_LOWER and changed < value) or (name in MAY_BE_HIGHER and changed > value))
    ]


class TestTiers:
    def test_the_numbers_of_the_design(self) -> None:
        limits = {tier: resolve_policy(tier).section("primary_metric")["ratio_limit"] for tier in TIERS}
        assert limits == {"balanced": 1.10, "conservative": 1.05, "aggressive": 1.20}
        assert at(BALANCED, ("primary_metric", "min_tokens")) == 50_000
        assert at(BALANCED, ("primary_metric", "replicates")) == 1200
        assert BALANCED["drift"] == {"min": 0.95, "max": 1.05}

    def test_every_tier_has_the_same_thresholds(self) -> None:
        assert len({tuple(leaves(resolve_policy(tier).thresholds)) for tier in TIERS}) == 1

    def test_an_unknown_tier_names_the_known_ones(self) -> None:
        for ask in (resolve_policy, lambda tier: looser_than_tier(tier, BALANCED)):
            with pytest.raises(ConfigurationError, match="'lax'; choose one of balanced, conservative, aggressive"):
                ask("lax")

    def test_changing_a_resolved_policy_does_not_change_the_tier(self) -> None:
        resolve_policy("balanced").section("primary_metric")["ratio_limit"] = 99
        assert resolve_policy("balanced").section("primary_metric")["ratio_limit"] == 1.10


class TestDigest:
    def test_plain_tools_give_the_same(self) -> None:
        policy = resolve_policy("balanced")
        document = {"resolved_policy": policy.thresholds, "overrides": policy.overrides}
        assert policy.digest == hashlib.sha256(rfc8785.dumps(document)).hexdigest()[:16]

    def test_tiers_and_overrides_have_digests_of_their_own(self) -> None:
        digests = {resolve_policy(tier).digest for tier in TIERS}
        assert len(digests | {policy_digest(BALANCED, {"preset": "x"})}) == len(TIERS) + 1

    @pytest.mark.parametrize("path", LEAVES, ids=dotted)
    def test_every_threshold_counts(self, path: Path) -> None:
        assert policy_digest(replaced(BALANCED, path, "changed"), {}) != policy_digest(BALANCED, {})


class TestLooser:
    @pytest.mark.parametrize("tier", TIERS)
    def test_a_tier_is_not_looser_than_itself(self, tier: str) -> None:
        assert looser_than_tier(tier, resolve_policy(tier).thresholds) == []

    def test_tiers_in_their_order(self) -> None:
        conservative, aggressive = (resolve_policy(tier).thresholds for tier in ("conservative", "aggressive"))
        named = [finding.split(" is ")[0] for finding in looser_than_tier("balanced", aggressive)]
        assert {"primary_metric.ratio_limit", "primary_metric_tail.quantile_max", "spectral.max_caps"} <= set(named)
        # Caps by family are recorded only: they have no direction, so they must be equal.
        assert all(
            finding.startswith("spectral.family_caps.") for finding in looser_than_tier("balanced", conservative)
        )

    @pytest.mark.parametrize("path", LEAVES, ids=dotted)
    def test_every_loosened_threshold_is_named(self, path: Path) -> None:
        name, value = ".".join(map(str, path[:-1] if isinstance(path[-1], int) else path)), at(BALANCED, path)
        assert loosened(name, value)
        for changed in loosened(name, value):
            findings = looser_than_tier("balanced", replaced(BALANCED, path, changed))
            assert [finding for finding in findings if finding.startswith(f"{name} is ")], (name, changed)

    @pytest.mark.parametrize("name", sorted(MAY_BE_LOWER | MAY_BE_HIGHER))
    def test_a_tightened_threshold_is_none(self, name: str) -> None:
        section, key = name.split(".")
        value = BALANCED[section][key] * (0.5 if name in MAY_BE_LOWER else 2)
        assert looser_than_tier("balanced", replaced(BALANCED, (section, key), value)) == []

    @pytest.mark.parametrize("path", [path for path in LEAVES if not isinstance(path[-1], int)], ids=dotted)
    def test_every_missing_threshold_is_named(self, path: Path) -> None:
        assert looser_than_tier("balanced", removed(BALANCED, path)) == [f"{dotted(path)} is missing"]

    @pytest.mark.parametrize("section", list(BALANCED))
    @pytest.mark.parametrize("value", [None, {}, 5, []])
    def test_a_missing_section_is_named(self, section: str, value: Any) -> None:
        findings = looser_than_tier("balanced", {**BALANCED, section: value})
        assert any(finding.startswith(f"{section}.") and finding.endswith("is missing") for finding in findings)

    def test_the_order_of_invariants_counts_as_a_change(self) -> None:
        kinds = BALANCED["invariants"]["fatal"]
        softened = replaced(BALANCED, ("invariants", "warning"), [*BALANCED["invariants"]["warning"], kinds[0]])
        assert len(looser_than_tier("balanced", softened)) == 1

    def test_keys_with_dots_do_not_stand_in_for_a_section(self) -> None:
        caps = {**BALANCED["spectral"]["family_caps"], "ffn": 99.0}
        forged = {**BALANCED, "spectral": {**BALANCED["spectral"], "family_caps": caps, "family_caps.ffn": 3.849}}
        assert len(looser_than_tier("balanced", forged)) == 2

    @pytest.mark.parametrize("path", [("extra",), ("extra", "limit"), ("spectral", "extra")])
    def test_an_unknown_threshold_is_named(self, path: Path) -> None:
        policy = replaced(BALANCED, path[:1], BALANCED.get(str(path[0]), {}))
        assert looser_than_tier("balanced", replaced(policy, path, 1)) == [f"{dotted(path)} is unknown"]


class TestProfiles:
    """What a profile demands beyond its tier is part of the policy that certificates record."""

    def test_each_is_at_least_as_strict_as_the_one_before(self) -> None:
        for tier in TIERS:
            for lower, higher in pairwise(PROFILES):
                findings = looser_than_tier(tier, resolve_policy(tier, higher).thresholds, lower)
                assert [finding for finding in findings if "primary_metric_tail.mode is 'fail'" not in finding] == []
                assert looser_than_tier(tier, resolve_policy(tier, lower).thresholds, higher)

    def test_what_it_adds_is_recorded_and_in_the_digest(self) -> None:
        plain, release = resolve_policy("balanced"), resolve_policy("balanced", "release")
        assert plain.overrides == {}
        assert release.overrides["release"]["primary_metric_tail"] == {"mode": "fail"}
        assert release.section("primary_metric")["replicates"] > plain.section("primary_metric")["replicates"]
        assert release.digest != plain.digest

    def test_an_unknown_one_is_named(self) -> None:
        with pytest.raises(ConfigurationError, match="unknown profile 'prod'; choose one of dev, ci, release"):
            resolve_policy("balanced", "prod")
