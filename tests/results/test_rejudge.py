"""``proofpack rejudge`` and packs with own limits: the gates under another policy, and who is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.rejudge import rejudge
from pytest_proofpack.common.strict_json import pretty_json, read_json
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.controller import header
from pytest_proofpack.runs.run import resolve_run
from tests.results.conftest import QUANT, Command, few_certificates, few_scenarios
from tests.support.certificates import make_evidence, make_plan
from tests.support.default_settings import DEFAULTS
from tests.support.packs import pack_of

STRICT = "[limits]\nprimary_metric.ratio_limit = 1.005\ndirection.lost_share_max = 0.01\n"
SUITE = 'schema = "proof_pack_suite_v1"\nname = "mine"\n'
LOOSE = {"primary_metric": {"ratio_limit": 1.5}, "distribution": {"kl_mean_fail": 0.5}}


@pytest.fixture(scope="module")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose 4-bit edit passes only by its maker's own limits."""
    folder, policy = tmp_path_factory.mktemp("loose"), resolve_policy("balanced", limits=LOOSE)
    return pack_of(few_certificates(folder / "run", policy=policy, shifts={"quant_4bit_clean": 0.2}), folder / "pack")


@pytest.mark.parametrize("tier", ["conservative", "aggressive"])
def test_it_is_what_the_tier_would_have_given(tier: str) -> None:
    for scenario in ("quant_4bit_clean", "nan_injection"):
        request = next(one for one in make_plan()[1].requests if one.scenario.id == scenario)
        shift = 0.08 if scenario == "quant_4bit_clean" else None
        again = rejudge(build_certificate(make_evidence(request, shift=shift)), resolve_policy(tier), "dev").certificate
        wanted = build_certificate(make_evidence(request, shift=shift, policy=resolve_policy(tier)))
        assert again is not None
        assert again["outcome"] == wanted["outcome"]
        assert again["primary_metric"] == wanted["primary_metric"]
        assert again["resolved_policy"] == wanted["resolved_policy"]
        assert again["policy_digest"] == wanted["policy_digest"]


def test_a_profile_is_resampled_as_often_as_it_demands(run_directory: Path) -> None:
    again = rejudge(read_json(run_directory / QUANT), resolve_policy("balanced", "release"), "release")
    assert again.certificate is not None
    assert again.certificate["primary_metric"]["reps"] == 4800
    assert again.certificate["outcome"]["passed"] is True


def test_by_own_limits(proofpack: Command, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "limits.toml").write_text(STRICT)
    limits = f"--limits={tmp_path / 'limits.toml'}"
    assert proofpack("rejudge", pack, limits) == 3
    printed = capsys.readouterr().out
    assert "judged by tier balanced, profile dev, limits: own, as strict as balanced or stricter in " in printed
    assert (
        "not judged again: direction.lost_share_max stays 0.02: it decided what was measured (6 certificates)"
        in printed
    )
    assert printed.endswith("verdict: PASS, by this policy FAIL\n")
    assert proofpack("rejudge", pack, limits, "--format=json") == 3
    document = json.loads(capsys.readouterr().out)
    rows = {one["before"]["scenario"]: one["after"] for one in document["certificates"]}
    assert rows["quant_4bit_clean"]["failed_gates"] == ["primary_metric_acceptable"]
    assert rows["calibration"]["passed"] is True
    assert proofpack("rejudge", pack, limits, "--format=markdown") == 3
    assert capsys.readouterr().out.startswith("**By `tier balanced, profile dev, limits: own, ")
    assert proofpack("rejudge", pack, "--tier=aggressive") == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[windows]\n", "has no table [limits]"),
        ("limits =", "is not valid TOML"),
        (None, "cannot be read"),
    ],
)
def test_usage(
    text: str | None, why: str, proofpack: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "limits.toml").write_text(text)
    assert proofpack("rejudge", "unread", f"--limits={tmp_path / 'limits.toml'}") == 2
    assert why in capsys.readouterr().err
    assert proofpack("rejudge", "unread") == 2


def test_a_limit_that_there_is_not(
    proofpack: Command, run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "limits.toml").write_text("[limits]\nprimary_metric.ratio = 2\n")
    assert proofpack("rejudge", run_directory / QUANT, f"--limits={tmp_path / 'limits.toml'}") == 2
    assert "'primary_metric.ratio' is no limit that can be set. Did you mean" in capsys.readouterr().err


class TestAPackWithOwnLimits:
    def test_verification_says_so(self, proofpack: Command, loose: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert proofpack("verify", loose) == 0
        told = (
            "limits        own, LOOSER than balanced in primary_metric.ratio_limit 1.5 (1.1), "
            "distribution.kl_mean_fail 0.5 (0.2)"
        )
        assert told in capsys.readouterr().out

    @pytest.mark.parametrize("demand", ["--require-verdict=PASS", "--min-tier=balanced", "--min-tier=aggressive"])
    def test_it_meets_no_demand_for_a_tier(
        self, demand: str, proofpack: Command, loose: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("verify", loose, demand) == 3
        assert "primary_metric.ratio_limit 1.5 (1." in capsys.readouterr().out.partition("NOT MET")[2]

    def test_who_has_read_them_may_accept_them(self, proofpack: Command, loose: Path) -> None:
        assert proofpack("verify", loose, "--require-verdict=PASS:own-limits") == 0

    def test_or_demand_the_suite_that_has_them(
        self, proofpack: Command, loose: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "few.json").write_text(pretty_json(few_scenarios()))
        suite = SUITE.replace('"mine"', '"small"')
        suite += 'scenarios = "few.json"\n[[models]]\nid = "a/b"\n[text]\nprovider = "synthetic"\n[runs]\n'
        suite += "calibration = 1\nclean = 1\n"
        for table, status in (("primary_metric.ratio_limit = 1.5\ndistribution.kl_mean_fail = 0.5\n", 0), ("", 3)):
            (tmp_path / "small.toml").write_text(f"{suite}stress = 1\nerror = 1\n[limits]\n{table}")
            assert proofpack("verify", loose, f"--expect-suite={tmp_path / 'small.toml'}") == status
        told = "its limits are primary_metric.ratio_limit 1.5, distribution.kl_mean_fail 0.5, not the tier's"
        assert told in capsys.readouterr().out

    def test_by_its_tier_it_fails(self, proofpack: Command, loose: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert proofpack("rejudge", loose, "--tier=balanced") == 3
        printed = capsys.readouterr().out
        assert "verdict: PASS, by this policy FAIL" in printed
        row = next(line for line in printed.splitlines() if "quant_4bit_clean" in line)
        assert row.split()[-4:] == ["passes", "fails", "perplexity", "NO"]
        assert "acme/Tiny-1M nan_injection run 1" not in printed

    def test_show_says_so_too(self, proofpack: Command, loose: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert proofpack("show", loose) == 0
        assert "- limits: `own, LOOSER than balanced in primary_metric.ratio_limit" in capsys.readouterr().out


class TestARun:
    def settings(self, tmp_path: Path, table: str, **changes: Any) -> Settings:
        (tmp_path / "mine.toml").write_text(
            f'{SUITE}[[models]]\nid = "a/b"\n[text]\nprovider = "synthetic"\ndocuments = 9\n{table}'
        )
        return replace(DEFAULTS, suite=str(tmp_path / "mine.toml"), out=str(tmp_path / "out"), **changes)

    def test_its_header_names_limits_of_the_suite(self, tmp_path: Path) -> None:
        run = resolve_run(self.settings(tmp_path, "[limits]\nprimary_metric.ratio_limit = 1.2\n"))
        assert run.policy.overrides == {"limits": {"primary_metric": {"ratio_limit": 1.2}}}
        assert "; limits: own, LOOSER than balanced in primary_metric.ratio_limit 1.2 (1.1); run" in header(run)
        assert "limits: " not in header(resolve_run(self.settings(tmp_path, "")))

    def test_or_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "limits.toml").write_text(STRICT)
        run = resolve_run(self.settings(tmp_path, "", limits=str(tmp_path / "limits.toml"), tier="conservative"))
        assert run.policy.section("primary_metric")["ratio_limit"] == 1.005
        assert "as strict as conservative or stricter in primary_metric.ratio_limit 1.005 (1.05)" in run.own_limits

    def test_what_makes_no_sense_ends_it_before_any_work(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"suite mine: limits: drift.max: 1 makes no sense; expected a"):
            resolve_run(self.settings(tmp_path, "[limits.drift]\nmax = 1.0\n"))
