"""Calibration: a preset is of one model and one way to measure it, may tighten a gate, and never switches one off."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.presets import (
    Preset,
    preset_document,
    preset_facts,
    preset_findings,
    preset_name,
    read_preset,
)
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.runs.run import resolve_run
from tests.support.certificates import make_evidence, make_plan
from tests.support.default_settings import DEFAULTS

POLICY = resolve_policy("balanced")
RULES = POLICY.section("rmt")
NULL = {"attn": [0.001 * draw for draw in range(100)], "ffn": [0.0] * 30}
MODEL = "proofpack/tiny-test"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages name files as one would type them


def with_null(null: dict[str, list[float]], run: int = 1) -> JsonObject:
    """Return the certificate of an unedited model with these null statistics."""
    requests = make_plan(runs={"calibration": 2, "clean": 0, "stress": 0, "error": 0})[1].requests
    evidence = make_evidence(next(request for request in requests if request.run == run))
    rmt = {**evidence.guards["rmt"], "null_log_ratios": null}
    return build_certificate(replace(evidence, guards={**evidence.guards, "rmt": rmt}))


@cache
def _document() -> JsonObject:
    return preset_document([with_null(NULL), with_null(NULL, 2)], POLICY)


def document(**changes: Any) -> JsonObject:
    return {**copy.deepcopy(_document()), **changes}


def written(folder: Path, content: JsonObject | None = None, name: str = "preset.json") -> Path:
    path = folder / name
    path.write_text(pretty_json(document() if content is None else content), encoding="utf-8")
    return path


class TestRoundTrip:
    def test_what_was_calibrated_is_read_back(self, tmp_path: Path) -> None:
        certificate = with_null(NULL)
        contract = RULES["measurement_contract"]
        preset = read_preset(written(tmp_path))
        assert preset.null_log_ratios == NULL
        facts = preset_facts(
            certificate["provenance"]["model_digest"]["baseline"],
            certificate["meta"]["tokenizer_hash"],
            certificate["dataset"]["seq_len"],
            contract,
        )
        preset.require_fit(MODEL, facts)
        assert replace(preset, null_log_ratios={}) == facts

    def test_it_fits_its_schema_and_says_what_follows_from_it(self) -> None:
        assert schema_findings("preset", document()) == []
        derived = document()["derived"]
        assert derived["policy_digest"] == POLICY.digest
        # The 99 % quantile of 0.000, 0.001, ... 0.099; and a null that never moves rests on the floor.
        assert derived["log_epsilon_by_family"] == {"attn": pytest.approx(0.09801), "ffn": RULES["epsilon_floor"]}
        assert derived["epsilon_source"] == {"attn": "calibrated", "ffn": "calibrated_floor"}

    def test_every_run_records_what_an_unedited_model_reads(self) -> None:
        runs = document()["null"]["runs"]
        assert [(run["run"], run["seed"]) for run in runs] == [(1, 43), (2, 44)]
        assert all(run["ratio_vs_baseline"] == 1.0 and run["relative_drift"] == 1.0 for run in runs)

    def test_runs_of_one_model_share_their_null_statistics(self) -> None:
        other = {**NULL, "ffn": [0.5] * 30}
        with pytest.raises(FormatError, match=r"acme/Tiny-1M: its calibration certificates differ"):
            preset_document([with_null(NULL), with_null(other, 2)], POLICY)

    def test_losses_that_are_not_finite_calibrate_nothing(self) -> None:
        """A certificate may be called a calibration whatever it holds."""
        broken = with_null(NULL)
        del broken["primary_metric"]["ratio_vs_baseline"]
        with pytest.raises(FormatError, match="calibration 1 has losses that are not finite"):
            preset_document([broken], POLICY)
        assert preset_findings(document(), [broken]) == [
            "null: acme/Tiny-1M: calibration 1 has losses that are not finite"
        ]


class TestFit:
    @pytest.mark.parametrize(
        ("what", "value"),
        [("model_digest", "0" * 64), ("tokenizer_hash", "0" * 64), ("seq_len", 512), ("contract_hash", "0" * 16)],
    )
    def test_a_preset_of_something_else_is_named(self, tmp_path: Path, what: str, value: object) -> None:
        facts: Preset = replace(read_preset(written(tmp_path)), null_log_ratios={})
        with pytest.raises(ConfigurationError, match=rf"preset of {MODEL} has {what} .*{value}.*Calibrate anew"):
            facts.require_fit(MODEL, Preset(**{**asdict(facts), what: value}))

    def test_another_way_to_measure_is_another_contract(self, tmp_path: Path) -> None:
        preset = read_preset(written(tmp_path))
        contract = {**RULES["measurement_contract"], "tap": "elsewhere"}
        facts = preset_facts(preset.model_digest, preset.tokenizer_hash, preset.seq_len, contract)
        with pytest.raises(ConfigurationError, match="has contract_hash"):
            preset.require_fit(MODEL, facts)


class TestHostile:
    @pytest.mark.parametrize("key", [key for key in _document() if key != "derived"])
    def test_every_key_is_required_and_typed(self, tmp_path: Path, key: str) -> None:
        rest = {name: value for name, value in document().items() if name != key}
        with pytest.raises(ConfigurationError, match=rf"preset\.json is not a usable preset file: .*{key}"):
            read_preset(written(tmp_path, rest))
        wrong: list[object] = [None, 1.5, [], "", True]
        for value in wrong:
            with pytest.raises(ConfigurationError, match=rf"preset\.json is not a usable preset file: .*{key}"):
                read_preset(written(tmp_path, {**rest, key: value}))

    @pytest.mark.parametrize(
        "ratios",
        [
            [], {"ffn": []}, {"ffn": [True]}, {"ffn": ["0"]}, {"ffn": [None]}, {"ffn": [1e300]}, {"ffn": [-51]},
            {"ffn": 0.1}, {"ffn": [0.0] * 10_001}, {"experts": [0.1] * 30}, {"": [0.1]},
        ],
    )  # fmt: skip
    def test_statistics_that_are_none(self, tmp_path: Path, ratios: object) -> None:
        with pytest.raises(ConfigurationError, match="rmt_log_ratios"):
            read_preset(written(tmp_path, document(null={"rmt_log_ratios": ratios})))

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000]
    )
    def test_a_file_that_is_no_json_object(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "preset.json"
        path.write_bytes(data)
        with pytest.raises(ConfigurationError, match=r"calibration preset preset\.json: .*earlier run"):
            read_preset(path)

    def test_a_file_that_is_not_there_or_a_directory(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.json", tmp_path):
            with pytest.raises(ConfigurationError, match=r"cannot be read .*earlier run"):
                read_preset(path)

    def test_what_it_claims_to_follow_is_not_believed(self, tmp_path: Path) -> None:
        claimed = document(derived={"log_epsilon_by_family": {"ffn": 99.0}, "max_caps": 10**6})
        assert read_preset(written(tmp_path, claimed)) == read_preset(written(tmp_path))


class TestBounds:
    @pytest.mark.parametrize("value", [0.7, 1.0, 50.0])
    def test_no_null_widens_a_tolerance_beyond_the_policys_ceiling(self, value: float) -> None:
        certificate = with_null({"attn": [value] * 30, "ffn": [value] * 30})
        assert check_certificate(certificate) == []
        for group in certificate["rmt"]["families"].values():
            assert group["log_epsilon"] == RULES["epsilon_ceiling"]
            assert group["epsilon_source"] == "calibrated_ceiling"

    @pytest.mark.parametrize("value", [0.0, -1.0, -50.0])
    def test_no_null_narrows_it_beyond_the_floor(self, value: float) -> None:
        groups = with_null({"attn": [value] * 30, "ffn": [value] * 30})["rmt"]["families"]
        assert {group["log_epsilon"] for group in groups.values()} == {RULES["epsilon_floor"]}

    def test_too_few_draws_leave_the_tiers_own(self) -> None:
        few = [50.0] * (RULES["min_null_draws"] - 1)
        groups = with_null({"attn": few, "ffn": few})["rmt"]["families"]
        assert {group["epsilon_source"] for group in groups.values()} == {"tier_default"}
        assert {group["log_epsilon"] for group in groups.values()} == {RULES["epsilon_default"]}

    def test_the_gate_still_catches_what_doubles_and_more(self) -> None:
        evidence = make_evidence(next(own for own in make_plan()[1].requests if own.scenario.id == "quant_4bit_clean"))
        rmt = copy.deepcopy(evidence.guards["rmt"])
        rmt["null_log_ratios"] = {"attn": [50.0] * 1000, "ffn": [50.0] * 1000}
        rmt["branches"]["block.0.mlp"]["cur"] = 2.01 * rmt["branches"]["block.0.mlp"]["base"]
        certificate = build_certificate(replace(evidence, guards={**evidence.guards, "rmt": rmt}))
        assert certificate["validation"]["rmt_stable"] is False
        assert certificate["outcome"]["failed_gates"] == ["rmt_stable"]

    def test_a_null_statistic_changed_in_a_certificate_is_named(self) -> None:
        certificate = with_null(NULL)
        certificate["rmt"]["null_log_ratios"]["attn"] = [0.3] * 100
        assert any(finding.startswith("rmt.families.attn.log_epsilon") for finding in check_certificate(certificate))

    def test_the_ceiling_is_no_wider_than_twice(self) -> None:
        for tier in ("balanced", "conservative", "aggressive"):
            assert resolve_policy(tier).section("rmt")["epsilon_ceiling"] <= math.log(2.0)


class TestModes:
    """What ``--proofpack-mode`` and ``--proofpack-preset-dir`` make of a run."""

    def runs(self, **given: Any) -> dict[str, int]:
        return dict(resolve_run(replace(DEFAULTS, suite="tiny", **given)).suite.runs)

    @pytest.fixture
    def presets(self, tmp_path: Path) -> Path:
        """A directory with a preset for the model of the suite ``tiny``."""
        (model,) = resolve_run(replace(DEFAULTS, suite="tiny")).suite.models
        written(tmp_path, name=preset_name(model.id.lower().replace("/", "__")))
        return tmp_path

    def test_full_takes_everything(self) -> None:
        assert all(self.runs(mode="full").values())
        assert resolve_run(replace(DEFAULTS, suite="tiny")).presets == {}

    def test_calibrate_only_plans_nothing_else(self) -> None:
        run = resolve_run(replace(DEFAULTS, suite="tiny", mode="calibrate-only", runs={"calibration": 3}))
        assert {request.scenario.category.value for request in run.requests} == {"calibration"}
        assert len(run.requests) == 3

    def test_calibrate_only_needs_a_calibration_run(self) -> None:
        with pytest.raises(ConfigurationError, match=r"calibrate-only: .*--proofpack-runs=calibration:5"):
            self.runs(mode="calibrate-only", runs={"calibration": 0})

    def test_run_only_needs_presets(self) -> None:
        with pytest.raises(ConfigurationError, match=r"run-only needs the presets .*--proofpack-preset-dir=DIR"):
            self.runs(mode="run-only")

    @pytest.mark.parametrize("mode", ["full", "run-only"])
    def test_with_presets_nothing_is_calibrated(self, presets: Path, mode: str) -> None:
        run = resolve_run(replace(DEFAULTS, suite="tiny", mode=mode, preset_dir=str(presets)))
        assert run.suite.runs == {**self.runs(), "calibration": 0}
        assert [preset.null_log_ratios for preset in run.presets.values()] == [NULL]
        assert set(run.presets) == {model.id for model in run.suite.models}

    def test_calibrating_and_reusing_a_calibration_exclude_each_other(self, presets: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"calibrate-only.*--proofpack-preset-dir"):
            self.runs(mode="calibrate-only", preset_dir=str(presets))

    def test_one_file_will_do_for_one_model(self, presets: Path, tmp_path: Path) -> None:
        (file,) = presets.iterdir()
        moved = file.rename(tmp_path / "mine.json")
        assert len(resolve_run(replace(DEFAULTS, suite="tiny", preset_dir=str(moved))).presets) == 1

    def test_one_file_for_two_models_is_refused(self, presets: Path, tmp_path: Path) -> None:
        (file,) = presets.iterdir()
        with pytest.raises(ConfigurationError, match="cannot be read"):
            self.runs(preset_dir=str(file), model=(str(tmp_path / "a"), str(tmp_path / "b")))

    def test_a_missing_preset_is_named_with_its_model(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"calibrated_preset_.*\.json: cannot be read.*earlier run"):
            self.runs(preset_dir=str(tmp_path))

    def test_a_broken_preset_stops_before_any_work(self, presets: Path) -> None:
        (file,) = presets.iterdir()
        file.write_text(json.dumps({"schema": "proof_pack_preset_v1"}), encoding="utf-8")
        with pytest.raises(ConfigurationError, match=rf"{file.name} is not a usable preset file"):
            self.runs(preset_dir=str(presets))
