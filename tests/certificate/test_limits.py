"""Own limits: what may be set, what makes no sense, and that nobody can pass them off as a tier's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.limits import describe, limit_names
from pytest_proofpack.certificate.policy import limits_beside, policy_digest, resolve_policy
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, FormatError
from tests.support.certificates import make_evidence, make_plan

REQUEST = next(one for one in make_plan()[1].requests if one.scenario.id == "quant_4bit_clean")
LOOSE = {"primary_metric": {"ratio_limit": 1.3}, "primary_metric_tail": {"quantile_max": 0.1}}


def test_they_take_the_place_of_the_tiers_and_are_recorded() -> None:
    policy = resolve_policy("balanced", "release", {**LOOSE, "primary_metric_tail": {"mode": "warn"}})
    assert policy.section("primary_metric")["ratio_limit"] == 1.3
    assert policy.section("primary_metric_tail")["mode"] == "warn"
    assert policy.overrides["limits"] == {
        "primary_metric": {"ratio_limit": 1.3},
        "primary_metric_tail": {"mode": "warn"},
    }
    assert policy.overrides["release"]["primary_metric_tail"] == {"mode": "fail"}
    assert policy.digest != resolve_policy("balanced", "release").digest
    assert resolve_policy("balanced").section("primary_metric")["ratio_limit"] == 1.1


def test_a_whole_number_for_a_fraction_is_one() -> None:
    limit = resolve_policy("balanced", limits={"primary_metric": {"ratio_limit": 2}}).section("primary_metric")
    assert (limit["ratio_limit"], type(limit["ratio_limit"])) == (2.0, float)


def test_every_limit_can_be_set_to_what_a_tier_has() -> None:
    tier = resolve_policy("aggressive").thresholds
    limits: dict[str, dict[str, Any]] = {}
    for name in limit_names():
        section, key = name.split(".")
        limits.setdefault(section, {})[key] = tier[section][key]
    found = limits_beside("balanced", "dev", {"limits": limits})
    assert {limit.name for limit in found} == set(limit_names())
    assert "primary_metric.ratio_limit" in {limit.name for limit in found if limit.looser}
    assert resolve_policy("balanced", limits=limits).section("distribution") == tier["distribution"]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"primary_metric": {"ratio_limt": 1.2}}, "can be set. Did you mean 'primary_metric.ratio_limit'?"),
        ({"metric": {"ratio": 1.2}}, "'metric.ratio' is no limit that can be set"),
        ({"direction": {"cosine_min": 0.1}}, "'direction.cosine_min' is no limit that can be set"),
        ({"invariants": {"fatal": []}}, "'invariants.fatal' is no limit that can be set"),
        ({"ratio_limit": 1.2}, "'ratio_limit': expected a section's thresholds"),
        ([], "expected a table of sections"),
        ({"primary_metric": {"ratio_limit": 1.0}}, "ratio_limit: 1 makes no sense; expected a number above 1"),
        ({"primary_metric": {"ratio_limit": float("nan")}}, "nan makes no sense"),
        ({"primary_metric": {"ratio_limit": 10**400}}, "makes no sense"),
        ({"primary_metric": {"ratio_limit": "1.2"}}, "expected a number above 1"),
        ({"primary_metric": {"ratio_limit": True}}, "expected a number above 1"),
        ({"primary_metric": {"min_tokens": 0}}, "0 makes no sense; expected a whole number of at least 1"),
        ({"primary_metric": {"min_tokens": 1000.0}}, "expected a whole number"),
        ({"primary_metric_tail": {"quantile_max": 0}}, "expected a number above 0"),
        ({"primary_metric_tail": {"mode": "off"}}, "expected one of warn, fail"),
        ({"drift": {"min": 1.0}}, "expected a number above 0 and below 1"),
        ({"distribution": {"kl_mean_fail": -1.0}}, "expected a number above 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_in_a_sentence(limits: Any, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        limits_beside("balanced", "dev", {"limits": limits})
    assert why in str(raised.value)


def test_they_are_told_looser_ones_first() -> None:
    told = describe(limits_beside("balanced", "dev", {"limits": LOOSE}), "balanced")
    assert told == (
        "own, LOOSER than balanced in primary_metric.ratio_limit 1.3 (1.1); as strict as balanced or stricter in "
        "primary_metric_tail.quantile_max 0.1 (0.2)"
    )


class TestVerification:
    def certificate(self, shift: float = 0.2) -> JsonObject:
        return build_certificate(make_evidence(REQUEST, shift=shift, policy=resolve_policy("balanced", limits=LOOSE)))

    def forged(self, change: Callable[[JsonObject], None]) -> list[str]:
        """Change a certificate and whatever follows from its policy, and return what is found."""
        document = self.certificate()
        change(document)
        provenance = document["policy_provenance"]
        digest = policy_digest(document["resolved_policy"], provenance["overrides"])
        provenance["policy_digest"] = document["policy_digest"]["thresholds_hash"] = digest
        document["policy_digest"]["changed"] = bool(provenance["overrides"])
        with contextlib.suppress(FormatError):  # then it is refused by itself
            document |= {key: derive(document)[key] for key in ("run_id", "outcome")}
        return check_certificate(finish_certificate(document))

    def test_a_certificate_is_judged_by_what_it_states(self) -> None:
        assert check_certificate(self.certificate()) == []
        outcome = self.certificate()["outcome"]
        assert (outcome["passed"], outcome["warnings"][-1]) == (True, "own_limits")
        assert build_certificate(make_evidence(REQUEST, shift=0.2))["outcome"]["passed"] is False

    def test_limits_that_are_not_stated_are_a_looser_policy(self) -> None:
        findings = self.forged(lambda document: document["policy_provenance"].update(overrides={}))
        assert findings == ["resolved_policy.primary_metric.ratio_limit is 1.3, the balanced tier has 1.1"]

    def test_a_policy_looser_than_the_limits_stated_is_one(self) -> None:
        findings = self.forged(lambda document: document["resolved_policy"]["primary_metric"].update(ratio_limit=1.4))
        assert findings == [
            "resolved_policy.primary_metric.ratio_limit is 1.4, the balanced tier, with the limits that it states, "
            "has 1.3"
        ]

    def test_nothing_else_may_stand_among_the_overrides(self) -> None:
        """What nobody judges could be varied until the digest is that of another policy."""
        findings = self.forged(lambda document: document["policy_provenance"]["overrides"].update(note=7))
        assert findings == [
            "policy_provenance.overrides.note: is not what this profile and limits of one's own come to"
        ]

    @pytest.mark.parametrize("limits", [{"direction": {"cosine_min": 0.1}}, {"primary_metric": {"ratio_limit": 0}}, 5])
    def test_limits_that_nobody_may_set_are_named(self, limits: Any) -> None:
        findings = self.forged(lambda document: document["policy_provenance"].update(overrides={"limits": limits}))
        assert findings[0].startswith("policy_provenance.overrides.limits: ")
